"""Single tokens as text and as bytes, for every kind of tokenizer."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from services.worker.text.token_texts import TokenTexts


def byte_level() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: place for place, piece in enumerate(alphabet)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_fallback() -> Tokenizer:
    pieces = [f"<0x{byte:02X}>" for byte in range(256)] + ["▁the", "é"]
    tokenizer = Tokenizer(
        models.BPE({piece: place for place, piece in enumerate(pieces)}, [], byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
    ])  # fmt: skip
    return tokenizer


def test_byte_level_tokens_stand_for_each_byte_once_whether_it_is_a_character_or_not() -> None:
    tokenizer = byte_level()
    texts = [TokenTexts(tokenizer).of(token_id) for token_id in range(256)]
    assert sorted(data for _, data in texts) == [bytes([byte]) for byte in range(256)]
    # The tokenizer's own decoder says which byte a token is, as far as one byte is a character.
    assert all(text == data.decode(errors="replace") for text, data in texts)


@pytest.mark.parametrize(
    ("token_id", "text", "data"), [(0x41, "A", b"A"), (0xC3, "\ufffd", b"\xc3"), (257, "é", "é".encode())]
)
def test_a_token_of_a_single_byte_is_that_byte(token_id: int, text: str, data: bytes) -> None:
    assert TokenTexts(byte_fallback()).of(token_id) == (text, data)


def test_a_row_without_a_piece_is_empty() -> None:
    assert TokenTexts(byte_fallback()).of(9_999) == ("", b"")
