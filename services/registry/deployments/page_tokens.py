"""Page tokens (AIP-158): sealed, so that they say nothing and only come from us."""

import base64
import binascii
from dataclasses import dataclass

from services.common.errors import InvalidFieldError
from services.registry.deployments.sealing import SealBrokenError, Sealer

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
_MAX_TOKEN = 1024


@dataclass(frozen=True)
class PageTokens:
    """Makes and reads the tokens of one list; one list's token does not fit another."""

    sealer: Sealer
    purpose: tuple[str, ...]
    """The method, whose list it is, and of what."""

    def write(self, last: str) -> str:
        """The token of the page that begins behind the key `last`."""
        return base64.urlsafe_b64encode(self.sealer.seal(last, ("page-token", *self.purpose))).decode()

    def read(self, token: str) -> str:
        """The key behind which the page begins; empty for the first page. Raises InvalidFieldError."""
        if not token:
            return ""
        if len(token) > _MAX_TOKEN:
            raise _not_a_token(token)
        try:
            return self.sealer.open(
                base64.b64decode(token, altchars=b"-_", validate=True), ("page-token", *self.purpose)
            )
        except (binascii.Error, ValueError, SealBrokenError):
            raise _not_a_token(token) from None


def _not_a_token(token: str) -> InvalidFieldError:
    return InvalidFieldError("page_token", token, "empty, or next_page_token of the same list")


def page_size(asked: int) -> int:
    """How many entries a page has; more than MAX_PAGE_SIZE is taken for that. Raises InvalidFieldError."""
    if asked < 0:
        raise InvalidFieldError(
            "page_size", asked, f"0 .. {MAX_PAGE_SIZE}, where 0 means {DEFAULT_PAGE_SIZE}"
        )
    return min(asked, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE
