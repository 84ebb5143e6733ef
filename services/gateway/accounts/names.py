"""What callers may call things."""

import re
from collections.abc import Iterable

from services.common import errors

_ACCOUNT = re.compile(r"[a-z][a-z0-9-]{1,38}")
_MAX_REQUEST_ID = 128


def check_account_name(name: str, base_models: Iterable[str]) -> None:
    """Raise InvalidFieldError unless `name` may become an account's.

    A deployment is called `account/name` and a base model may be called `org/name`, so no account takes an
    org's name.
    """
    if not _ACCOUNT.fullmatch(name):
        bound = "2 .. 39 of a-z, 0-9 and '-', beginning with a letter"
        raise errors.InvalidFieldError("account_id", name, bound)
    for base_model in base_models:
        org, slash, _ = base_model.partition("/")
        if slash and org.casefold() == name:
            raise errors.InvalidFieldError(
                "account_id",
                name,
                f"other than the organisation of the base model {base_model}",
                reason="ACCOUNT_NAME_RESERVED",
            )


def check_request_id(request_id: str, *, required: bool) -> None:
    """Raise InvalidFieldError unless a caller's own id is at most 128 printable ASCII characters."""
    printable = request_id.isascii() and (request_id.isprintable())
    if len(request_id) > _MAX_REQUEST_ID or not printable or (required and not request_id):
        least = "1" if required else "0"
        bound = f"{least} .. {_MAX_REQUEST_ID} printable ASCII characters"
        raise errors.InvalidFieldError("request_id", request_id, bound)
