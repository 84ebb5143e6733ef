"""What each token of a vocabulary is to the text around it."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""A single byte, as vocabularies with byte fallback write it."""


class AddedToken(Protocol):
    """What is needed of `tokenizers.AddedToken`."""

    content: str
    special: bool


class Tokenizer(Protocol):
    """What is needed of `tokenizers.Tokenizer`."""

    @property
    def decoder(self) -> Any:  # Any: its decoders have no type that tells their settings
        """What joins pieces; None joins them with spaces."""
        ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids; what is not UTF-8 becomes U+FFFD."""
        ...

    def id_to_token(self, id: int) -> str | None:  # noqa: A002 - its own name for it
        """The piece of a token id; None for a row that has none."""
        ...

    def get_added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        """Added tokens by id."""
        ...


class Vocabulary:
    """A base model's tokens, as its text is made of them. Immutable."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.special_ids: Mapping[str, int] = {
            token.content: number
            for number, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        """Of special tokens, which have no text, by their content."""
        self._has_byte_fallback = _has_byte_fallback(tokenizer.decoder)
        self.is_silent = lru_cache(maxsize=1 << 16)(self._is_silent)
        """Whether a token is passed over: special ones, and rows of the model that have no token."""
        self.is_byte = lru_cache(maxsize=1 << 16)(self._is_byte)
        """Whether a token is a single byte that is decoded together with all that stand beside it: a run of them is
        valid UTF-8 as a whole, or not at all."""

    def decode(self, ids: Sequence[int]) -> str:
        """The tokens' text, special ones left out."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _is_silent(self, token_id: int) -> bool:
        piece = self._tokenizer.id_to_token(token_id)
        return piece is None or piece in self.special_ids

    def _is_byte(self, token_id: int) -> bool:
        if not self._has_byte_fallback:
            return False
        piece = self._tokenizer.id_to_token(token_id)
        return piece is not None and BYTE_PIECE.fullmatch(piece) is not None


def _has_byte_fallback(decoder: Any) -> bool:  # Any: as Tokenizer has it
    if decoder is None:
        return False
    settings = json.loads(decoder.__getstate__())
    return any(one["type"] == "ByteFallback" for one in settings.get("decoders", [settings]))
