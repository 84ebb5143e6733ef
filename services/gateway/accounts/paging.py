"""Page tokens as AIP-158 wants them: opaque, and refused when they are not ours or belong to another list."""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from services.common import errors

Entry = TypeVar("Entry")

_DEFAULT_SIZE = 50
_MAX_SIZE = 1_000
_CHECK_BYTES = 9
_MAX_TOKEN = 512


def page_size(asked: int) -> int:
    """The size of a page: 50 when unset, at most 1,000. Raises InvalidFieldError below zero."""
    if asked < 0:
        raise errors.InvalidFieldError("page_size", asked, "0 .. 1000")
    return min(asked, _MAX_SIZE) or _DEFAULT_SIZE


@dataclass(frozen=True)
class Page(Generic[Entry]):
    """A part of a list."""

    entries: Sequence[Entry]
    next_token: str
    """Empty on the last page."""


@dataclass(frozen=True)
class Place:
    """A place in a list that is ordered by time and then by id: that of the last entry seen."""

    time: datetime
    id: str


def page_token(listing: Sequence[str], place: Place) -> str:
    """A token for what follows `place` in the list that `listing` names: its method and filters."""
    body = json.dumps([place.time.isoformat(), place.id]).encode()
    return base64.urlsafe_b64encode(_check(listing, body) + body).decode().rstrip("=")


def place_of(token: str, listing: Sequence[str]) -> Place | None:
    """The place that a token of the same list stands for; None for the empty token, the list's beginning.

    Raises InvalidFieldError.
    """
    if not token:
        return None
    if len(token) > _MAX_TOKEN:
        raise _foreign(token)
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _foreign(token) from None
    check, body = raw[:_CHECK_BYTES], raw[_CHECK_BYTES:]
    if check != _check(listing, body):
        raise _foreign(token)
    try:
        moment, identity = json.loads(body)
        return Place(time=datetime.fromisoformat(moment).astimezone(UTC), id=str(identity))
    except (TypeError, ValueError, OverflowError, RecursionError):
        # Our check over a body that is not ours: somebody made it by hand.
        raise _foreign(token) from None


def _check(listing: Sequence[str], body: bytes) -> bytes:
    return hashlib.sha256(json.dumps(list(listing)).encode() + b"\0" + body).digest()[:_CHECK_BYTES]


def _foreign(token: str) -> errors.InvalidFieldError:
    return errors.InvalidFieldError(
        "page_token",
        token,
        "next_page_token of an earlier page of the same list with the same filters",
    )
