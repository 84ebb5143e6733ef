"""What callers may call things."""

import re

from services.common import errors

_ACCOUNT = re.compile(r"[a-z][a-z0-9-]{1,38}")
_MAX_ID = 128


_KEY = re.compile(r"[0-9a-f]{32}")


def check_account_name(name: str) -> None:
    """Raise InvalidFieldError unless `name` may become an account's."""
    if not _ACCOUNT.fullmatch(name):
        bound = "2 .. 39 of a-z, 0-9 and '-', beginning with a letter"
        raise errors.InvalidFieldError("account_id", name, bound)


def check_known_account(name: str) -> None:
    """Raise NotFoundError for what cannot be an account's name, before it is looked up."""
    if not _ACCOUNT.fullmatch(name):
        raise errors.NotFoundError("account", name)


def check_known_key(name: str) -> None:
    """Raise NotFoundError for what cannot be a key's name, before it is looked up."""
    if not _KEY.fullmatch(name):
        raise errors.NotFoundError("key", name)


def check_client_request_id(request_id: str) -> None:
    """Raise InvalidFieldError unless a caller's own id is at most 128 printable ASCII characters."""
    _check_id("client_request_id", request_id, least=0)


def check_idempotency_key(key: str, *, required: bool = False) -> None:
    """Raise InvalidFieldError unless it is at most 128 printable ASCII characters."""
    _check_id("idempotency_key", key, least=1 if required else 0)


def _check_id(field: str, value: str, *, least: int) -> None:
    printable = value.isascii() and value.isprintable()
    if not least <= len(value) <= _MAX_ID or not printable:
        bound = f"{least} .. {_MAX_ID} printable ASCII characters"
        raise errors.InvalidFieldError(field, value, bound)
