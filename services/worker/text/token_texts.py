"""Single tokens as text and as bytes, for log probabilities."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol

from services.worker.text.vocabulary import BYTE_PIECE


class Pieces(Protocol):
    """What is needed of `tokenizers.Tokenizer`."""

    def id_to_token(self, id: int) -> str | None:  # noqa: A002 - its own name for it
        """The piece of a token id; None for a row that has none."""
        ...

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids."""
        ...

    def to_str(self) -> str:
        """The tokenizer as JSON."""
        ...


class TokenTexts:
    """Looks tokens up by themselves: what each is as text, and which bytes it stands for."""

    def __init__(self, vocabulary: Pieces) -> None:
        self._vocabulary = vocabulary
        # A byte-level tokenizer writes each byte as a character of its own; others name single bytes `<0x0A>`.
        self._is_byte_level = '"ByteLevel"' in vocabulary.to_str()
        self.of = lru_cache(maxsize=1 << 16)(self._of)
        """(text, bytes) of a token id. Text is U+FFFD where the token is part of a character."""

    def _of(self, token_id: int) -> tuple[str, bytes]:
        text = self._vocabulary.decode([token_id], skip_special_tokens=False)
        piece = self._vocabulary.id_to_token(token_id)
        if piece is None:
            return text, text.encode()
        one_byte = BYTE_PIECE.fullmatch(piece)
        if one_byte is not None:
            return text, bytes([int(one_byte[1], 16)])
        if self._is_byte_level and all(character in _BYTES for character in piece):
            return text, bytes(_BYTES[character] for character in piece)
        return text, text.encode()


def _byte_characters() -> Mapping[str, int]:
    """The byte that each character of a byte-level piece stands for, after GPT-2's bytes_to_unicode.

    https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_BYTES = _byte_characters()
