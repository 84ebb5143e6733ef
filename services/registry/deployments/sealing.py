"""AES-GCM around what must not be readable, or changeable, by who only sees it: Hub tokens, page tokens."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_NONCE_BYTES = 12


class SealBrokenError(Exception):
    """The bytes were not sealed with this key for this purpose, or have changed since."""


class Sealer:
    """Seals text for one purpose; sealed text opens only for the same purpose."""

    def __init__(self, key: bytes) -> None:
        """`key` is KEY_BYTES random bytes of the operator's."""
        self._cipher = AESGCM(key)

    def seal(self, text: str, purpose: tuple[str, ...]) -> bytes:
        """`text`, encrypted, with `purpose` as the associated data."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text.encode(), _associated(purpose))

    def open(self, sealed: bytes, purpose: tuple[str, ...]) -> str:
        """The text that was sealed. Raises SealBrokenError."""
        nonce, encrypted = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, encrypted, _associated(purpose)).decode()
        except (InvalidTag, ValueError):
            raise SealBrokenError from None


def token_purpose(account: str, uid: str) -> tuple[str, ...]:
    """What binds a sealed Hub token to its deployment: moved to another row, it does not open."""
    return ("hub-token", account, uid)


def _associated(purpose: tuple[str, ...]) -> bytes:
    # Lengths keep ("a", "bc") and ("ab", "c") apart.
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in purpose)
