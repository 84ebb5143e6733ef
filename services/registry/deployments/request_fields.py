"""The fields of requests about deployments: what each may hold."""

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # lazy, but public

from services.common.errors import InvalidFieldError

_DEPLOYMENT_ID = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
_NAME = re.compile(r"[^/]{1,200}/[^/]{1,63}")
# What git allows in a reference, less what would need quoting.
_REVISION = re.compile(r"(?![/.-])[A-Za-z0-9._/+@-]{1,255}(?<![/.])")
_HUB_TOKEN = re.compile(r"[!-~]{1,512}")
_REQUEST_ID = re.compile(r"[!-~]{1,128}")


@dataclass(frozen=True)
class CreateRequest:
    """What a caller wants deployed; empty strings are what was left out."""

    deployment_id: str
    hub_repo: str
    revision: str
    hub_token: str
    base_model: str
    request_id: str

    def fingerprint(self) -> str:
        """Of the fields that a retry must repeat. The token is not among them: it may have been renewed."""
        fields = (self.deployment_id, self.hub_repo, self.revision, self.base_model)
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
        if self.request_id and not _REQUEST_ID.fullmatch(self.request_id):
            raise InvalidFieldError("request_id", self.request_id, "at most 128 printable ASCII characters")
        if self.base_model not in base_models and (self.base_model or len(base_models) > 1):
            raise InvalidFieldError("base_model", self.base_model, f"one of {', '.join(base_models)}")


@dataclass(frozen=True)
class UpdateRequest:
    """What a caller wants in place of what it has."""

    hub_repo: str
    """Empty keeps the repo."""
    revision: str
    hub_token: str | None
    """None keeps the stored one; empty removes it."""
    etag: str

    def check(self) -> None:
        """Raise InvalidFieldError for the first field that is out of bounds."""
        if self.hub_repo:
            check_hub_repo(self.hub_repo)
        check_revision(self.revision)
        check_hub_token(self.hub_token or "")


def check_hub_repo(value: str) -> None:
    """`org/name`, by the Hub's own rules. Raises InvalidFieldError."""
    try:
        validate_repo_id(value)
    except HFValidationError:
        valid = False
    else:
        valid = value.count("/") == 1
    if not valid:
        raise InvalidFieldError("hub_repo", value, "a Hub repo id of the form org/name")


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
