import itertools
import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from services.worker.text.detokenizer import Detokenizer
from services.worker.text.stop_strings import StopStrings
from services.worker.text.text_stream import TextStream
from services.worker.text.vocabulary import Vocabulary

EMOJI = "hi \N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET} caf\u00e9 \u6f22\u5b57 \N{GRINNING FACE}!"


@pytest.fixture(scope="module")
def by_bytes() -> Tokenizer:
    """One token a byte, and one special token: the hardest case for whole characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=257, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([], trainer)
    return tokenizer


@pytest.fixture(scope="module")
def with_byte_fallback() -> Tokenizer:
    """As Llama 2's: pieces with a space mark, and bytes where a piece is missing."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581hi", "\u2581there", "a", "\u2581"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def id_of(tokenizer: Tokenizer, piece: str) -> int:
    found = tokenizer.token_to_id(piece)
    assert found is not None
    return found


def pieces_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(Vocabulary(tokenizer))
    return [*(detokenizer.push(one) for one in ids), detokenizer.finish()]


def test_the_pieces_joined_are_what_the_tokenizer_decodes(by_bytes: Tokenizer) -> None:
    ids = by_bytes.encode(EMOJI).ids
    assert "".join(pieces_of(by_bytes, ids)) == EMOJI


def test_a_character_of_several_tokens_comes_out_whole_with_its_last_one(by_bytes: Tokenizer) -> None:
    ids = by_bytes.encode("a\N{GRINNING FACE}b").ids
    assert pieces_of(by_bytes, ids) == ["a", "", "", "", "\N{GRINNING FACE}", "b", ""]


def test_no_piece_holds_a_replacement_character_for_any_valid_text(by_bytes: Tokenizer) -> None:
    ids = by_bytes.encode(EMOJI * 5).ids
    assert not any("\ufffd" in piece for piece in pieces_of(by_bytes, ids))


def test_an_unfinished_character_is_flushed_at_the_end(by_bytes: Tokenizer) -> None:
    ids = by_bytes.encode("a\N{GRINNING FACE}").ids[:-1]
    assert pieces_of(by_bytes, ids) == ["a", "", "", "", "\ufffd"]


def test_special_tokens_have_no_text(by_bytes: Tokenizer) -> None:
    end = id_of(by_bytes, "<|end|>")
    ids = [end, *by_bytes.encode("a").ids, end, *by_bytes.encode("b").ids]
    assert "".join(pieces_of(by_bytes, ids)) == "ab"


def test_random_bytes_decode_as_a_whole_and_the_window_stays_small(by_bytes: Tokenizer) -> None:
    drawn = random.Random(3)
    for bound in (257, 200):
        ids = [drawn.randrange(1, bound) for _ in range(2000)]
        detokenizer = Detokenizer(Vocabulary(by_bytes))
        text = "".join(detokenizer.push(one) for one in ids) + detokenizer.finish()
        assert text == by_bytes.decode(ids)
        assert len(detokenizer._window) < 64


def test_bytes_that_never_make_a_character_are_not_held_for_ever(by_bytes: Tokenizer) -> None:
    continuation = id_of(by_bytes, "\u0122")
    pieces = pieces_of(by_bytes, [continuation] * 200)
    assert "".join(pieces) == by_bytes.decode([continuation] * 200)
    assert "".join(pieces[:100])


def test_a_decoder_that_strips_the_first_space_keeps_the_others(with_byte_fallback: Tokenizer) -> None:
    hi, there = id_of(with_byte_fallback, "\u2581hi"), id_of(with_byte_fallback, "\u2581there")
    ids = [hi, there] * 20
    assert "".join(pieces_of(with_byte_fallback, ids)) == with_byte_fallback.decode(ids)


def test_byte_fallback_tokens_join_into_one_character(with_byte_fallback: Tokenizer) -> None:
    rocket = [id_of(with_byte_fallback, f"<0x{byte:02X}>") for byte in "\N{ROCKET}".encode()]
    newline = id_of(with_byte_fallback, "<0x0A>")
    ids = [id_of(with_byte_fallback, "\u2581hi"), newline, *rocket, id_of(with_byte_fallback, "a")]
    # A run of bytes is decoded as a whole, so it waits for its end.
    assert pieces_of(with_byte_fallback, ids) == ["hi", "", "", "", "", "", "\n\N{ROCKET}a", ""]


def returned(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    watch = StopStrings(stops)
    out = ""
    for piece in pieces:
        text, found = watch.push(piece)
        out += text
        if found is not None:
            return out, found
    return out + watch.finish(), None


def test_text_ends_before_the_stop_string() -> None:
    assert returned(["END"], ["one END two"]) == ("one ", "END")


def test_a_stop_string_over_several_pieces_is_found() -> None:
    assert returned(["END"], ["one E", "N", "D two"]) == ("one ", "END")


def test_text_that_only_began_like_a_stop_string_is_returned() -> None:
    watch = StopStrings(["END"])
    assert watch.push("one EN") == ("one ", None)
    assert watch.push("ough") == ("ENough", None)


def test_what_is_held_back_at_the_end_is_returned() -> None:
    assert returned(["END"], ["one EN"]) == ("one EN", None)


def test_nothing_is_held_back_without_stop_strings() -> None:
    assert StopStrings([]).push("anything") == ("anything", None)


def test_a_stop_string_that_overlaps_itself_is_found() -> None:
    assert returned(["aab"], ["a", "a", "a", "b"]) == ("a", "aab")


def test_of_several_stop_strings_the_one_completed_first_counts() -> None:
    assert returned(["abcd", "bc"], ["abcd"]) == ("a", "bc")
    assert returned(["abc", "bc"], ["xabc"]) == ("x", "abc")


@pytest.mark.parametrize("stops", [["abcd", "bc"], ["ab", "abc"], ["ca", "bca"], ["cc"], ["\n\n", "b\n"]])
def test_the_result_does_not_depend_on_how_the_text_is_cut(stops: list[str]) -> None:
    text = "xabacabca\n\nbcdcc"
    whole = returned(stops, [text])
    assert returned(stops, list(text)) == whole
    drawn = random.Random(5)
    for _ in range(100):
        cuts = sorted(drawn.sample(range(1, len(text)), drawn.randrange(1, 6)))
        pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
        assert returned(stops, pieces) == whole


def test_a_stop_string_of_emoji_is_found_across_the_tokens_of_its_bytes(by_bytes: Tokenizer) -> None:
    stream = TextStream(Vocabulary(by_bytes), [], ["\N{ROCKET}\N{ROCKET}"])
    out, used = "", 0
    for one in by_bytes.encode("go \N{ROCKET} \N{ROCKET}\N{ROCKET} gone").ids:
        out += stream.push(one)
        used += 1
        if stream.stop is not None:
            break
    assert (out, stream.stop) == ("go \N{ROCKET} ", "\N{ROCKET}\N{ROCKET}")
    assert used == len("go \N{ROCKET} \N{ROCKET}\N{ROCKET}".encode())


def test_a_stop_string_that_only_the_last_flush_completes_is_found(by_bytes: Tokenizer) -> None:
    stream = TextStream(Vocabulary(by_bytes), [], ["\ufffd"])
    assert stream.push(by_bytes.encode("\N{ROCKET}").ids[0]) == ""
    assert (stream.finish(), stream.stop) == ("", "\ufffd")


def test_the_end_of_a_sequence_returns_what_was_held_back(by_bytes: Tokenizer) -> None:
    stream = TextStream(Vocabulary(by_bytes), [], ["ab"])
    assert [stream.push(one) for one in by_bytes.encode("xa").ids] == ["x", ""]
    assert (stream.finish(), stream.stop) == ("a", None)
