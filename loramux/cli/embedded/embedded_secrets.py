"""What the embedded services share and keep from one start to the next, in one file of mode 0600."""

import base64
import hashlib
import json
import secrets
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from loramux import private_file

_FILE_NAME = "secrets.json"


@dataclass(frozen=True)
class EmbeddedSecrets:
    """Made at the first start in a data folder."""

    gateway_secret: str
    """What gateways show the registry."""
    worker_secret: str
    """What workers show the registry."""
    dispatch_secret: str
    """What gateways and the registry show workers."""
    encryption_key: str
    """Base64 of 32 bytes; the registry encrypts users' Hub tokens with it."""
    operator_key: str
    api_keys: dict[str, str] = field(default_factory=dict)
    """By account: the key that `loramux up` made for it."""

    @property
    def operator_key_sha256(self) -> str:
        """What the gateway is told."""
        return hashlib.sha256(self.operator_key.encode()).hexdigest()

    def with_api_key(self, account: str, key: str) -> "EmbeddedSecrets":
        """The same, with this account's key."""
        return replace(self, api_keys={**self.api_keys, account: key})


def load_or_make(data_dir: Path) -> EmbeddedSecrets:
    """Those of the data folder. Raises ValueError when the file is not one of ours."""
    place = data_dir / _FILE_NAME
    try:
        content = json.loads(place.read_text())
    except FileNotFoundError:
        made = EmbeddedSecrets(
            gateway_secret=secrets.token_urlsafe(32),
            worker_secret=secrets.token_urlsafe(32),
            dispatch_secret=secrets.token_urlsafe(32),
            encryption_key=base64.b64encode(secrets.token_bytes(32)).decode(),
            operator_key=f"lmx_{secrets.token_urlsafe(32)}",
        )
        save(data_dir, made)
        return made
    except ValueError:
        raise ValueError(f"{place} is not the JSON that this program wrote") from None
    try:
        return EmbeddedSecrets(**content)
    except TypeError:
        raise ValueError(f"{place} does not hold what this program wrote") from None


def save(data_dir: Path, kept: EmbeddedSecrets) -> None:
    """Replace the file."""
    private_file.write(data_dir / _FILE_NAME, json.dumps(asdict(kept), indent=2))
