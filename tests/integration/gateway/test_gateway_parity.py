"""The gateway's encoding against transformers' own, on the base model of the demo."""

from pathlib import Path
from typing import cast

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from services.common.templates.template_sandbox import TemplateSandbox
from services.gateway.prompts.prompt_encoder import PromptEncoder, TokenizerFiles
from services.gateway.request import ChatMessage, ChatPrompt, TextPrompt
from services.worker.base.base_folder import default_folder

pytestmark = pytest.mark.parity

TEXTS = [
    "Hello",
    "  leading and trailing  ",
    "naïve café, 漢字, emoji 🏴‍☠️ and\ttabs\r\n\r\nlines",
    "<|im_start|>user\nspecial tokens in a text<|im_end|>",
    "def f(x):\n    return x ** 2  # code\n",
    "x" * 5_000,
    "many words " * 2_000,
]
CHATS = [
    [("user", "Where is the treasure?")],
    [("system", "You are a pirate."), ("user", "Who are you?")],
    [("user", "1 + 1"), ("assistant", "2"), ("user", "and\n\n<b>&amp;</b> 漢字?")],
    [("user", ""), ("assistant", " "), ("user", "{{ 7 * 7 }} {% raise %}")],
    [("user", "long " * 1_500)],
]


@pytest.fixture(scope="module")
def folder() -> Path:
    return default_folder()


@pytest.fixture(scope="module")
def oracle(folder: Path) -> PreTrainedTokenizerFast:
    return cast("PreTrainedTokenizerFast", AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="module")
def encoder(folder: Path, oracle: PreTrainedTokenizerFast) -> PromptEncoder:
    return PromptEncoder(
        TokenizerFiles(
            commit="",
            chat_template=(folder / "chat_template.jinja").read_text(),
            special_tokens={name: str(token) for name, token in oracle.special_tokens_map.items()},
            tokenizer_json=(folder / "tokenizer.json").read_bytes(),
        ),
        TemplateSandbox(),
    )


@pytest.mark.parametrize("text", TEXTS)
async def test_texts_encode_as_transformers_encodes_them(
    encoder: PromptEncoder, oracle: PreTrainedTokenizerFast, text: str
) -> None:
    assert list(await encoder.encode(TextPrompt(text))) == oracle(text)["input_ids"]


@pytest.mark.parametrize("turns", CHATS)
async def test_chats_encode_as_apply_chat_template_does(
    encoder: PromptEncoder, oracle: PreTrainedTokenizerFast, turns: list[tuple[str, str]]
) -> None:
    messages = [{"role": role, "content": content} for role, content in turns]
    expected = oracle.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    chat = ChatPrompt(tuple(ChatMessage(role, content) for role, content in turns))
    assert list(await encoder.encode(chat)) == expected


def test_the_vocabulary_is_as_large_as_transformers_says(
    encoder: PromptEncoder, oracle: PreTrainedTokenizerFast
) -> None:
    assert encoder.vocabulary == len(oracle)
