"""What of a repo's chat files is refused, by name and with the way out."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from services.registry.admission.repo_extras import MAX_FILE_BYTES, MAX_TEMPLATE_BYTES
from tests.support.registry_extras import ROWS, Bench, extras_bench, tokenizer


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with extras_bench(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("files", "field"),
    [
        ({"chat_template.jinja": b"{% if %}"}, "chat_template.jinja"),
        ({"chat_template.jinja": b"\xff\xfe"}, "chat_template.jinja"),
        ({"chat_template.jinja": b"{{ 2 ** (10 ** 9) }}"}, "chat_template.jinja"),
        ({"chat_template.jinja": b"{{" + b"(" * 9_000 + b"1" + b")" * 9_000 + b"}}"}, "chat_template.jinja"),
        ({"chat_template.jinja": b"x" * (MAX_TEMPLATE_BYTES + 1)}, "chat_template.jinja"),
        (
            {"tokenizer_config.json": {"chat_template": "x" * (MAX_TEMPLATE_BYTES + 1)}},
            "tokenizer_config.json: chat_template",
        ),
        ({"tokenizer_config.json": {"chat_template": 7}}, "tokenizer_config.json: chat_template"),
        ({"tokenizer_config.json": {"chat_template": ["x"]}}, "tokenizer_config.json: chat_template"),
        ({"tokenizer_config.json": b"{"}, "tokenizer_config.json"),
        ({"tokenizer_config.json": []}, "tokenizer_config.json"),
        ({"tokenizer_config.json": b'{"a":' * 9_000}, "tokenizer_config.json"),
        (
            {"chat_template.jinja": b"{{ x_token }}", "tokenizer_config.json": {"x_token": "y" * 300}},
            "tokenizer_config.json: x_token",
        ),
        (
            {
                "chat_template.jinja": "".join(f"{{{{t{n}_token}}}}" for n in range(65)).encode(),
                "tokenizer_config.json": {f"t{n}_token": "</s>" for n in range(65)},
            },
            "tokenizer_config.json",
        ),
        # Half a surrogate pair, which is no text and fits into no message.
        ({"tokenizer_config.json": {"chat_template": "\ud800 x"}}, "tokenizer_config.json: chat_template"),
        (
            {"chat_template.jinja": b"{{ x_token }}", "tokenizer_config.json": {"x_token": "\ud800"}},
            "tokenizer_config.json: x_token",
        ),
        (
            {
                "chat_template.jinja": b"x",
                "tokenizer.json": b'{"added_tokens": [{"id": 1e999, "content": "x"}]}',
            },
            "tokenizer.json",
        ),
        (
            {"tokenizer_config.json": {"eos_token": "</s>", "added_tokens_decoder": {"x": {}}}},
            "tokenizer_config.json: added_tokens_decoder",
        ),
        (
            {"tokenizer_config.json": {"eos_token": "</s>"}, "tokenizer.json": b'{"added_tokens": [{"id": 1'},
            "tokenizer.json",
        ),
        (
            {"tokenizer_config.json": {"eos_token": "</s>"}, "tokenizer.json": b'{"added_tokens": [7]}'},
            "tokenizer.json",
        ),
        ({"generation_config.json": {"eos_token_id": "2"}}, "generation_config.json: eos_token_id"),
        ({"generation_config.json": {"eos_token_id": True}}, "generation_config.json: eos_token_id"),
        ({"generation_config.json": {"eos_token_id": [1, -1]}}, "generation_config.json: eos_token_id"),
        ({"generation_config.json": {"eos_token_id": [[1]]}}, "generation_config.json: eos_token_id"),
        (
            {"generation_config.json": {"eos_token_id": list(range(65))}},
            "generation_config.json: eos_token_id",
        ),
        ({"generation_config.json": b" " * (MAX_FILE_BYTES + 1)}, "generation_config.json"),
    ],
)
async def test_what_is_not_as_transformers_writes_it_is_refused_by_name(
    bench: Bench, files: Mapping[str, Any], field: str
) -> None:
    error = await bench.refusal(files)
    assert error.reason == "ADAPTER_CHAT_FILES_INVALID"
    assert error.metadata["field"] == field


NEW = {"260": {"content": "<|turn|>", "special": True}}


@pytest.mark.parametrize(
    ("files", "told"),
    [
        # Needed by the template's text, by a name that it looks up, or as the end of a turn.
        (
            {
                "chat_template.jinja": b"<|turn|>{{ messages }}",
                "tokenizer_config.json": {"added_tokens_decoder": NEW},
            },
            "<|turn|>",
        ),
        (
            {"chat_template.jinja": b"<|turn|>", "tokenizer.json": tokenizer("<|turn|>").to_str().encode()},
            "260",
        ),
        ({"chat_template.jinja": b"<|turn|>", "added_tokens.json": {"<|turn|>": 260}}, "<|turn|>"),
        (
            {"chat_template.jinja": b"{{ x_token }}", "tokenizer_config.json": {"x_token": "<|turn|>"}},
            "x_token",
        ),
        ({"tokenizer_config.json": {"eos_token": "<|turn|>"}}, "eos_token"),
        # The base's token, as another number.
        (
            {
                "chat_template.jinja": b"<|im_start|>",
                "tokenizer_config.json": {"added_tokens_decoder": {"259": {"content": "<|im_start|>"}}},
            },
            "259",
        ),
        ({"generation_config.json": {"eos_token_id": [2, ROWS]}}, str(ROWS)),
        ({"generation_config.json": {"eos_token_id": 1 << 40}}, str(1 << 40)),
    ],
)
async def test_tokens_that_the_base_has_not_are_refused_where_they_are_needed(
    bench: Bench, files: Mapping[str, Any], told: str
) -> None:
    error = await bench.refusal(files)
    assert error.reason == "ADAPTER_TOKENS_UNKNOWN"
    assert told in error.message
