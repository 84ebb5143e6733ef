"""What names an adapter version, and what it consists of."""

import hashlib
import re
from dataclasses import dataclass

from services.common import errors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

DIGEST = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class AdapterVersion:
    """What the registry has admitted: both files by their sums, and where they come from."""

    digest: str
    hub_repo: str
    commit: str
    config_sha256: str
    weights_sha256: str
    size_bytes: int
    """Of both files together."""
    deployment_uid: str = ""
    """Whose Hub token opens the repo; empty where none is needed."""

    def check(self) -> None:
        """Raise InvalidFieldError unless the digest is that of the two sums and the commit is one."""
        for field, value in (("config_sha256", self.config_sha256), ("weights_sha256", self.weights_sha256)):
            if not DIGEST.fullmatch(value):
                raise errors.InvalidFieldError(f"adapter.{field}", value, "64 lower-case hex digits")
        digest = digest_of(self.config_sha256, self.weights_sha256)
        if self.digest != digest:
            raise errors.InvalidFieldError(
                "adapter.digest", self.digest, f"the digest of both sums, {digest}"
            )
        if not _COMMIT.fullmatch(self.commit):
            raise errors.InvalidFieldError("adapter.commit", self.commit, "40 lower-case hex digits")
        if self.size_bytes < 1:
            raise errors.InvalidFieldError("adapter.size_bytes", self.size_bytes, "at least 1")


def digest_of(config_sha256: str, weights_sha256: str) -> str:
    """The content digest that names an adapter version."""
    return hashlib.sha256(f"{config_sha256}\n{weights_sha256}\n".encode("ascii")).hexdigest()
