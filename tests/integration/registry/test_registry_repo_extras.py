"""The chat template and the end tokens of an adapter's repo, as transformers and trainers save them."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from services.common.errors import ServiceError
from services.registry.deployments.deployment import RepoExtras
from tests.support.registry_extras import (
    IM_END,
    MESSAGES,
    STYLE,
    Bench,
    extras_bench,
    tokenizer,
)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with extras_bench(tmp_path) as made:
        yield made


async def test_a_repo_of_the_adapter_alone_brings_nothing(bench: Bench) -> None:
    extras = await bench.read({})
    assert extras == RepoExtras()
    assert extras.sha256 == ""


async def test_what_transformers_saves_is_read_as_transformers_reads_it(bench: Bench, tmp_path: Path) -> None:
    saved = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it so
        tokenizer_object=tokenizer(), bos_token="<s>", eos_token="<|im_end|>", pad_token="</s>"
    )
    saved.chat_template = STYLE
    saved.save_pretrained(tmp_path / "saved")
    files = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    extras = await bench.read(files)
    assert extras.end_token_ids == (saved.eos_token_id,) == (IM_END,)
    oracle = PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")
    rendered = await bench.templates.render(extras.chat_template, extras.special_tokens, MESSAGES)
    assert rendered == oracle.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)


ADDED = {"258": {"content": "<|im_start|>"}, "259": {"content": "<|im_end|>", "special": True}}


@pytest.mark.parametrize(
    ("files", "template", "ends"),
    [
        # transformers' own places, in the order in which it prefers them.
        ({"chat_template.jinja": STYLE.encode(), "tokenizer_config.json": {"chat_template": "x"}}, STYLE, ()),
        ({"tokenizer_config.json": {"chat_template": STYLE, "eos_token": "<|im_end|>"}}, STYLE, (IM_END,)),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [
                        {"name": "tool_use", "template": "t"},
                        {"name": "default", "template": STYLE},
                    ]
                }
            },
            STYLE,
            (),
        ),
        ({"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "t"}]}}, "", ()),
        ({"tokenizer_config.json": {"chat_template": None, "eos_token": None}}, "", ()),
        # Older ones: a token as an object, tokens in a file of their own, ids beside the tokenizer's.
        (
            {"tokenizer_config.json": {"eos_token": {"__type": "AddedToken", "content": "</s>"}}},
            "",
            (257,),
        ),
        ({"special_tokens_map.json": {"eos_token": "<|im_end|>"}}, "", (IM_END,)),
        (
            {
                "special_tokens_map.json": {"eos_token": "<|im_end|>"},
                "tokenizer_config.json": {"eos_token": "</s>"},
            },
            "",
            (IM_END,),
        ),
        (
            {
                "special_tokens_map.json": {"eos_token": "<|im_end|>"},
                "tokenizer_config.json": {"eos_token": None, "added_tokens_decoder": {}},
            },
            "",
            (),
        ),
        ({"generation_config.json": {"eos_token_id": 7}}, "", (7,)),
        (
            {
                "generation_config.json": {"eos_token_id": [9, 7, 9]},
                "tokenizer_config.json": {"eos_token": "</s>"},
            },
            "",
            (7, 9, 257),
        ),
        ({"generation_config.json": {"temperature": 0.6}}, "", ()),
        # A token that is one of the base's words, and no added one.
        ({"tokenizer_config.json": {"eos_token": "!"}}, "", (0,)),
        # Tokens that were added, and that nothing needs: a padding that no prompt has.
        (
            {
                "tokenizer_config.json": {
                    "chat_template": STYLE,
                    "pad_token": "[PAD]",
                    "added_tokens_decoder": {**ADDED, "260": {"content": "[PAD]"}},
                }
            },
            STYLE,
            (),
        ),
        ({"added_tokens.json": {"[PAD]": 260}, "chat_template.jinja": STYLE.encode()}, STYLE, ()),
        ({"tokenizer.json": tokenizer("[PAD]").to_str().encode(), "chat_template.jinja": b"x"}, "x", ()),
        # Tokens that no prompt has: in a comment, as a part of a keyword.
        (
            {
                "chat_template.jinja": b"{# [PAD] #}{% if messages %}x{% endif %}",
                "tokenizer_config.json": {
                    "added_tokens_decoder": {"260": {"content": "[PAD]"}, "261": {"content": "mess"}}
                },
            },
            "{# [PAD] #}{% if messages %}x{% endif %}",
            (),
        ),
        # An end that is a word of the base's, added under the same id as transformers does.
        (
            {
                "tokenizer_config.json": {
                    "eos_token": "!",
                    "added_tokens_decoder": {"0": {"content": "!", "special": True}},
                }
            },
            "",
            (0,),
        ),
        # As lenient as json.load, which transformers uses.
        ({"tokenizer_config.json": b'{"eos_token": "x", "eos_token": "</s>", "p": NaN}'}, "", (257,)),
        # Editors of some systems put a byte order mark first.
        ({"tokenizer_config.json": b"\xef\xbb\xbf" + json.dumps({"eos_token": "</s>"}).encode()}, "", (257,)),
    ],
)
async def test_what_is_honoured(
    bench: Bench, files: Mapping[str, Any], template: str, ends: tuple[int, ...]
) -> None:
    extras = await bench.read(files)
    assert (extras.chat_template, extras.end_token_ids) == (template, ends)


async def test_ids_beyond_what_a_message_holds_are_refused_where_a_bases_rows_are_not_known(
    bench: Bench,
) -> None:
    bench.base = replace(bench.base, modules={})
    with pytest.raises(ServiceError):
        await bench.read({"generation_config.json": {"eos_token_id": 1 << 40}})


async def test_a_template_alone_knows_the_bases_tokens_and_one_beside_a_tokenizer_knows_its_own(
    bench: Bench,
) -> None:
    source = (STYLE + "{{ bos_token }}{{ boi_token }}").encode()
    alone = await bench.read({"chat_template.jinja": source})
    assert alone.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    config = {"eos_token": "<|im_end|>", "extra_special_tokens": {"boi_token": "<|im_start|>"}}
    beside = await bench.read({"chat_template.jinja": source, "tokenizer_config.json": config})
    assert beside.special_tokens == {"eos_token": "<|im_end|>", "boi_token": "<|im_start|>"}


async def test_of_special_tokens_only_those_are_kept_that_the_template_looks_up(bench: Bench) -> None:
    config = {f"t{number}_token": "</s>" for number in range(100_000)} | {"eos_token": "</s>"}
    extras = await bench.read({"chat_template.jinja": STYLE.encode(), "tokenizer_config.json": config})
    assert extras.special_tokens == {"eos_token": "</s>"}


async def test_nothing_of_a_vocabulary_is_fetched_where_nothing_needs_it(bench: Bench) -> None:
    await bench.read({"tokenizer.json": tokenizer().to_str().encode(), "merges.txt": b"x", "x.py": b"x"})
    resolved = {one.path for one in bench.hub.requests if one.kind == "resolve"}
    assert resolved == {"adapter_config.json", "adapter_model.safetensors"}
    await bench.read({"generation_config.json": {"eos_token_id": 2}}, use_base_template=True)
    assert "generation_config.json" not in {one.path for one in bench.hub.requests}
