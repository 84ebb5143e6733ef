"""Streamed text against `tokenizers` itself, for each kind of tokenizer that models come with."""

import os
import random
from collections.abc import Callable

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from services.worker.text.detokenizer import Detokenizer
from services.worker.text.text_stream import TextStream
from services.worker.text.token_texts import _BYTES
from services.worker.text.vocabulary import Vocabulary

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
MARK = "\u2581"
WORDS = [
    f"{MARK}time", f"{MARK}a", "a", "b", MARK, f"{MARK}{MARK}", "ing", ".", f"{MARK}.", "n't", f"{MARK}\u0e01",
    "\u6f22", "\N{ROCKET}", "\u0915\u094d", "e\u0301", "\N{REPLACEMENT CHARACTER}", "\n",
]  # fmt: skip


def with_added(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("<|im_end|>", special=True)])
    tokenizer.add_tokens([AddedToken("<tool>", special=False), AddedToken("\u00e9\u00e9", special=False)])
    return tokenizer


def byte_level() -> Tokenizer:
    pieces = [*pre_tokenizers.ByteLevel.alphabet(), "\u0120time", "ing", "\u00e2\u0122", "\u012c\u010a"]
    tokenizer = Tokenizer(models.BPE({piece: place for place, piece in enumerate(sorted(pieces))}, []))
    tokenizer.decoder = decoders.ByteLevel()
    return with_added(tokenizer)


def by_pieces(decoder: decoders.Decoder | None, pieces: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE({piece: place for place, piece in enumerate(pieces)}, []))
    if decoder is not None:
        tokenizer.decoder = decoder
    return with_added(tokenizer)


def unigram(decoder: decoders.Decoder) -> Tokenizer:
    pieces = [("<unk>", 0.0), *((piece, -1.0) for piece in (*BYTES, *WORDS))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.decoder = decoder
    return with_added(tokenizer)


def word_piece(*, cleanup: bool) -> Tokenizer:
    pieces = ["[UNK]", "time", "a", "##ing", "##a", ".", ",", "'", "n't", "do", "not", "\u6f22", "##\u0e01"]
    model = models.WordPiece({piece: place for place, piece in enumerate(pieces)}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.WordPiece("##", cleanup)
    return with_added(tokenizer)


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte level, as GPT-2, Llama 3 and Qwen": byte_level,
    "byte fallback, as Llama 2 and Mistral": lambda: by_pieces(
        decoders.Sequence(
            [
                decoders.Replace(MARK, " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        ),
        ["<unk>", *BYTES, *WORDS],
    ),
    "byte fallback without strip, as Gemma": lambda: by_pieces(
        decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]),
        ["<pad>", *BYTES, *WORDS],
    ),
    "byte fallback alone": lambda: by_pieces(
        decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()]), [*BYTES, "a", "b"]
    ),
    "pieces that look like bytes and are none": lambda: by_pieces(decoders.Fuse(), [*BYTES, *WORDS]),
    "Unigram, as T5": lambda: unigram(decoders.Metaspace()),
    "Unigram, space before the first word only": lambda: unigram(decoders.Metaspace(prepend_scheme="first")),
    "Unigram with byte fallback": lambda: unigram(
        decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    ),
    "WordPiece, as BERT": lambda: word_piece(cleanup=True),
    "WordPiece without cleanup": lambda: word_piece(cleanup=False),
    "BPE with suffixes, as GPT": lambda: by_pieces(
        decoders.BPEDecoder("</w>"), ["time</w>", "a</w>", "a", "ing</w>", "\u6f22", "\u0e01</w>"]
    ),
    "no decoder": lambda: by_pieces(None, ["time", "a", "\u6f22"]),
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return KINDS[request.param]()


def id_of(tokenizer: Tokenizer, piece: str) -> int:
    found = tokenizer.token_to_id(piece)
    assert found is not None
    return found


def expected(tokenizer: Tokenizer, prompt: list[int], output: list[int]) -> str:
    """The text of prompt and output, less what the prompt's has shown."""
    whole = tokenizer.decode(prompt + output)
    return whole[len(os.path.commonprefix([tokenizer.decode(prompt), whole])) :]  # noqa: RUF071


def streamed(tokenizer: Tokenizer, prompt: list[int], output: list[int]) -> list[str]:
    detokenizer = Detokenizer(Vocabulary(tokenizer), prompt)
    return [*map(detokenizer.push, output), detokenizer.finish()]


@pytest.mark.parametrize("seed", range(60))
def test_joined_pieces_are_the_tokenizers_text_less_the_prompts(tokenizer: Tokenizer, seed: int) -> None:
    dice = random.Random(seed)
    rows = tokenizer.get_vocab_size() + 3  # a model may have rows that no token has
    lengths = dice.choice([(0, 5), (1, 40), (3, 200), (40, 60)])
    few = dice.sample(range(rows), 4) if seed % 3 == 0 else range(rows)
    prompt, output = ([dice.choice(few) for _ in range(length)] for length in lengths)
    pieces = streamed(tokenizer, prompt, output)
    assert "".join(pieces) == expected(tokenizer, prompt, output)


SCRIPTS = "flag \N{REGIONAL INDICATOR SYMBOL LETTER U}\N{REGIONAL INDICATOR SYMBOL LETTER S} ok then, \u6f22\u5b57 \u0e01\u0e33 \u0915\u094d\u0937 \u05e9\u05c1 caf\u00e9 \N{WOMAN}\u200d\N{ROCKET}!"


@pytest.mark.parametrize("name", [name for name in KINDS if name.startswith(("byte", "Unigram with"))])
def test_no_piece_has_a_replaced_character_in_any_script_wherever_the_prompt_ends(name: str) -> None:
    tokenizer = KINDS[name]()
    if name.startswith("byte level"):
        alphabet = {byte: character for character, byte in _BYTES.items()}
        ids = [id_of(tokenizer, alphabet[byte]) for byte in SCRIPTS.encode()]
    else:
        plain = {" ": MARK}
        ids = list[int]()
        for character in SCRIPTS:
            known = tokenizer.token_to_id(plain.get(character, character))
            fallback = [id_of(tokenizer, BYTES[byte]) for byte in character.encode()]
            ids += fallback if known is None else [known]
    for cut in range(len(ids)):
        pieces = streamed(tokenizer, ids[:cut], ids[cut:])
        assert not any("\N{REPLACEMENT CHARACTER}" in one for one in pieces)
        assert "".join(pieces) == expected(tokenizer, ids[:cut], ids[cut:])


def test_a_space_at_the_seam_of_prompt_and_answer_is_not_lost() -> None:
    tokenizer = KINDS["byte fallback, as Llama 2 and Mistral"]()
    prompt = [id_of(tokenizer, one) for one in ("<s>", f"{MARK}a")]
    output = [id_of(tokenizer, one) for one in (f"{MARK}time", "ing")]
    assert "".join(streamed(tokenizer, prompt, output)) == " timeing"
    assert "".join(streamed(tokenizer, prompt[:1], output)) == "timeing"


@pytest.mark.parametrize("seed", range(20))
def test_a_stop_string_is_found_wherever_it_lies_in_that_text(tokenizer: Tokenizer, seed: int) -> None:
    dice = random.Random(seed)
    prompt, output = (
        [dice.randrange(tokenizer.get_vocab_size()) for _ in range(length)] for length in (10, 80)
    )
    whole = expected(tokenizer, prompt, output)
    begin = dice.randrange(len(whole) - 3)
    stop = whole[begin : begin + dice.randint(1, 6)]
    stream = TextStream(Vocabulary(tokenizer), prompt, [stop])
    text = ""
    for one in output:
        text += stream.push(one)
        if stream.stop is not None:
            break
    if stream.stop is None:
        text += stream.finish()
    assert (text, stream.stop) == (whole[: whole.index(stop)], stop)


def test_a_stop_string_that_is_a_special_token_ends_the_text_there(tokenizer: Tokenizer) -> None:
    first, end = tokenizer.token_to_id("a") or 1, id_of(tokenizer, "<|im_end|>")
    stream = TextStream(Vocabulary(tokenizer), [], ["never", "<|im_end|>"])
    text = stream.push(first) + stream.push(end)
    assert (text, stream.stop) == (tokenizer.decode([first]), "<|im_end|>")
