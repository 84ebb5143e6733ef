"""The fields of requests about deployments: what each may hold."""

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # lazy, but public

from services.common.errors import InvalidFieldError
from services.registry.deployments.deployment import Adapter

_DEPLOYMENT_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
_NAME = re.compile(r"[!-.0-~]{1,200}/[!-.0-~]{1,63}")
_MAX_REPO_ID = 200
# What git allows in a reference, less what would need quoting.
_REVISION = re.compile(r"(?![/.-])[A-Za-z0-9._/+@-]{1,255}(?<![/.])")
_HUB_TOKEN = re.compile(r"[!-~]{1,512}")
_IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,128}")


@dataclass(frozen=True)
class CreateRequest:
    """What a caller wants deployed; empty strings are what was left out."""

    deployment_id: str
    hub_repo: str
    revision: str
    hub_token: str
    base_model: str
    idempotency_key: str
    accept_base_name: bool = False
    use_base_template: bool = False

    def fingerprint(self) -> str:
        """Of the fields that a retry must repeat. The token is not among them: it may have been renewed."""
        said = [name for name in ("accept_base_name", "use_base_template") if getattr(self, name)]
        fields = (self.deployment_id, self.hub_repo, self.revision, self.base_model, *(said or [""]))
        return hashlib.sha256("\0".join(fields).encode()).hexdigest()

    def check(self, base_models: Collection[str]) -> None:
        """Raise InvalidFieldError for the first field that is out of bounds."""
        if not _DEPLOYMENT_ID.fullmatch(self.deployment_id):
            raise InvalidFieldError(
                "deployment_id",
                self.deployment_id,
                "1 to 63 of a-z, 0-9, '-' and '.', beginning with a letter or digit",
            )
        if self.deployment_id in base_models:
            raise InvalidFieldError(
                "deployment_id", self.deployment_id, "another name than those of the base models"
            )
        check_hub_repo(self.hub_repo)
        check_revision(self.revision)
        check_hub_token(self.hub_token)
        if self.idempotency_key and not _IDEMPOTENCY_KEY.fullmatch(self.idempotency_key):
            raise InvalidFieldError(
                "idempotency_key", self.idempotency_key, "at most 128 printable ASCII characters"
            )
        if self.base_model not in base_models and (self.base_model or len(base_models) > 1):
            raise InvalidFieldError("base_model", self.base_model, f"one of {', '.join(base_models)}")


@dataclass(frozen=True)
class UpdateRequest:
    """What a caller wants in place of what it has. None keeps; where all is kept, the revision is looked at again."""

    hub_repo: str | None = None
    revision: str | None = None
    """Empty means the default branch; so does None with another repo."""
    hub_token: str | None = None
    """Empty removes the stored one."""
    accept_base_name: bool | None = None
    use_base_template: bool | None = None
    etag: str = ""

    @property
    def is_of_the_token_alone(self) -> bool:
        """Whether the adapter stays what it is, and where it is."""
        others = (self.hub_repo, self.revision, self.accept_base_name, self.use_base_template)
        return self.hub_token is not None and all(one is None for one in others)

    def check(self) -> None:
        """Raise InvalidFieldError for the first field that is out of bounds."""
        if self.hub_repo is not None:
            check_hub_repo(self.hub_repo)
        check_revision(self.revision or "")
        check_hub_token(self.hub_token or "")

    def adapter(self, wanted: Adapter, hub_token: bytes | None) -> Adapter:
        """What is wanted instead of `wanted`, `hub_token` being the sealed one to go on with."""
        repo = wanted.hub_repo if self.hub_repo is None else self.hub_repo
        revision = self.revision
        if revision is None:
            revision = wanted.revision if repo == wanted.hub_repo else ""
        accepted, base_template = self.accept_base_name, self.use_base_template
        return Adapter(
            repo,
            revision,
            hub_token,
            accept_base_name=wanted.accept_base_name if accepted is None else accepted,
            use_base_template=wanted.use_base_template if base_template is None else base_template,
        )


def check_hub_repo(value: str) -> None:
    """`org/name`, by the Hub's own rules. Raises InvalidFieldError."""
    if not _is_hub_repo(value):
        raise InvalidFieldError("hub_repo", value, "a Hub repo id of the form org/name")


def _is_hub_repo(value: str) -> bool:
    if len(value) > _MAX_REPO_ID or value.count("/") != 1:
        return False
    try:
        validate_repo_id(value)
    except HFValidationError:
        return False
    return True


def check_revision(value: str) -> None:
    """A branch, tag or commit; empty means the default branch. Raises InvalidFieldError."""
    if value and (not _REVISION.fullmatch(value) or ".." in value or "//" in value):
        raise InvalidFieldError(
            "revision", value, "a branch, tag or commit: at most 255 of letters, digits and . _ / + @ -"
        )


def check_hub_token(value: str) -> None:
    """Raise InvalidFieldError, which does not show the token."""
    if value and not _HUB_TOKEN.fullmatch(value):
        raise InvalidFieldError(
            "hub_token", f"{len(value)} characters, not shown", "at most 512 printable ASCII characters"
        )


def check_name(value: str) -> None:
    """`account/deployment_id`. Raises InvalidFieldError where it has another form."""
    if not _NAME.fullmatch(value):
        raise InvalidFieldError("name", value, "of the form account/deployment_id")
