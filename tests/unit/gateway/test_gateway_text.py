"""Prompts to token ids."""

import pytest

from services.common.errors import InvalidFieldError
from services.common.templates.template_sandbox import TemplateSandbox
from services.gateway.prompts.prompt_encoder import PromptEncoder
from services.gateway.request import ChatMessage, ChatPrompt, Prompt, TextPrompt, TokenPrompt
from tests.support.gateway_tokenizer import BEGIN, END, VOCABULARY, byte_tokenizer, tokenizer_files


def user(content: str, role: str = "user") -> ChatPrompt:
    return ChatPrompt((ChatMessage(role, content),))


async def encode(prompt: Prompt, **files: object) -> tuple[int, ...]:
    return await PromptEncoder(tokenizer_files(**files), TemplateSandbox()).encode(prompt)  # type: ignore[arg-type]  # named by the tests


async def test_a_text_gets_the_special_tokens_that_its_tokenizer_adds() -> None:
    assert (await encode(TextPrompt("ab"), begins=True))[0] == BEGIN
    assert len(await encode(TextPrompt("ab"), begins=True)) == 3
    assert len(await encode(TextPrompt("ab"))) == 2


async def test_a_chat_has_the_special_tokens_of_its_template_and_no_others() -> None:
    ids = await encode(user("hi"), begins=True)
    assert [one for one in ids if one >= BEGIN] == [BEGIN, END, BEGIN]
    assert ids[0] == BEGIN
    assert byte_tokenizer().decode(list(ids)) == "user:hiassistant:"


async def test_token_ids_are_taken_as_they_are() -> None:
    assert await encode(TokenPrompt((257, 0, 3))) == (257, 0, 3)


async def test_a_long_text_encodes_as_a_short_one_does() -> None:
    words = "naïve 漢字 words " * 1_000
    expected = byte_tokenizer().encode(words).ids
    assert list(await encode(TextPrompt(words))) == expected


async def test_a_tokenizer_that_was_saved_with_truncation_and_padding_does_neither() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    files = tokenizer_files()
    encoder = PromptEncoder(
        type(files)(
            commit="",
            chat_template="",
            special_tokens={},
            tokenizer_json=tokenizer.to_str().encode(),
        ),
        TemplateSandbox(),
    )
    assert len(await encoder.encode(TextPrompt("0123456789"))) == 10


def test_the_vocabulary_counts_added_tokens() -> None:
    assert PromptEncoder(tokenizer_files(), TemplateSandbox()).vocabulary == VOCABULARY


async def test_a_conversation_that_the_template_refuses_is_refused_in_the_templates_words() -> None:
    with pytest.raises(InvalidFieldError) as caught:
        await encode(user("private words", role="pirate"))
    assert caught.value.field == "chat.messages"
    assert caught.value.reason == "CHAT_TEMPLATE_REFUSED"
    assert "unknown role pirate" in caught.value.message
    assert "private words" not in caught.value.message


async def test_a_base_without_a_chat_template_says_so() -> None:
    with pytest.raises(InvalidFieldError) as caught:
        await encode(user("x"), chat_template="")
    assert (caught.value.field, caught.value.reason) == ("chat", "NO_CHAT_TEMPLATE")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[5].content }}",
        "{{ messages[0].nothing.more }}",
        "{{ messages[0].content + 1 }}",
        "{{ {}['x'].y }}",
        "{{ 1 // 0 }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% set ns = namespace(__init__=1) %}",
    ],
)
async def test_whatever_goes_wrong_in_a_template_is_an_error_of_the_field(template: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        await encode(user("x"), chat_template=template)
    assert caught.value.reason == "CHAT_TEMPLATE_REFUSED"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}\n  {{ m.role }}\n{% endfor %}", "  user\n"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "<é>"}'),
        ("{% for m in messages %}a{% break %}b{% endfor %}", "a"),
        ("{% generation %}{{ messages[0].role }}{% endgeneration %}", "user"),
        ("{% generation %}{% set x = 1 %}{% endgeneration %}{{ x }}", ""),
        ("{% set ns = namespace(n=1) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}", "2"),
        ("{{ dict(a=1)['a'] }}{{ tools is none }}{{ strftime_now('%%') }}", "1True%"),
        ("{{ bos_token }}", "<s>"),
    ],
)
async def test_templates_have_what_transformers_gives_them(template: str, expected: str) -> None:
    ids = await encode(user("<é>"), chat_template=template)
    assert byte_tokenizer().decode(list(ids), skip_special_tokens=False) == expected
