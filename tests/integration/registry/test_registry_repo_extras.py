"""The chat template and the end tokens of an adapter's repo, as transformers and trainers save them."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from loramux.localhub import LocalHub, running
from services.common.errors import ServiceError
from services.common.templates.template_sandbox import TemplateSandbox
from services.registry.admission.adapter_admission import Admission
from services.registry.admission.repo_extras import MAX_FILE_BYTES, MAX_TEMPLATE_BYTES
from services.registry.bases.base_list import read_base_list
from services.registry.bases.base_model import BaseModel
from services.registry.bases.source_files import resolve_base
from services.registry.deployments.deployment import RepoExtras
from services.registry.hub_reader import HubReader
from tests.support.gateway_tokenizer import byte_tokenizer
from tests.support.registry import IN, MODULES, OUT, adapter_files, base_list, safetensors, write_base

REPO = "acme/styled"
ROWS = 264
STYLE = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}assistant:"
IM_START, IM_END = 258, 259
MESSAGES = [{"role": "user", "content": "Where to?"}]


def tokenizer(*more: str) -> Tokenizer:
    """The base's own, with tokens that an owner has added."""
    made = byte_tokenizer()
    made.add_special_tokens([AddedToken(one) for one in ("<|im_start|>", "<|im_end|>", *more)])
    return made


class Bench:
    """A Hub, a base, and an admission that reads from the one for the other."""

    def __init__(self, hub: LocalHub, endpoint: str, base: BaseModel, templates: TemplateSandbox) -> None:
        self.hub = hub
        self.base = base
        self.templates = templates
        self._reader = HubReader(endpoint, patience=0)

    async def read(self, files: Mapping[str, Any], **options: bool) -> RepoExtras:
        """Of a repo with an adapter and these files, objects as JSON."""
        data = {
            name: value if isinstance(value, bytes) else json.dumps(value).encode()
            for name, value in files.items()
        }
        self.hub.add_repo(REPO, {**adapter_files(), **data})
        admission = Admission(self._reader, self.templates, max_bytes=10**6)
        return (await admission.admit(REPO, "", token="", base=self.base, **options)).extras

    async def refusal(self, files: Mapping[str, Any]) -> ServiceError:
        with pytest.raises(ServiceError) as caught:
            await self.read(files)
        assert "use_base_template" in caught.value.message
        # Which is true.
        assert await self.read(files, use_base_template=True) == RepoExtras()
        return caught.value


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    folder = write_base(tmp_path / "base")
    tensors = {f"{path}.weight": ("F32", (OUT, IN)) for path in MODULES}
    embedding = {"model.embed_tokens.weight": ("F32", (ROWS, IN))}
    (folder / "model.safetensors").write_bytes(safetensors({**tensors, **embedding}))
    (folder / "tokenizer.json").write_text(tokenizer().to_str())
    (tmp_path / "bases.toml").write_text(base_list(folder))
    hub, templates = LocalHub(tmp_path / "hub"), TemplateSandbox()
    async with running(hub) as endpoint:
        base = await resolve_base(
            read_base_list(tmp_path / "bases.toml")[0], HubReader(endpoint, patience=0), ""
        )
        yield Bench(hub, endpoint, base, templates)
    await templates.stop()
    hub.close()


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


async def test_nothing_of_a_vocabulary_is_fetched_where_nothing_needs_it(bench: Bench) -> None:
    await bench.read({"tokenizer.json": tokenizer().to_str().encode(), "merges.txt": b"x", "x.py": b"x"})
    resolved = {one.path for one in bench.hub.requests if one.kind == "resolve"}
    assert resolved == {"adapter_config.json", "adapter_model.safetensors"}
    await bench.read({"generation_config.json": {"eos_token_id": 2}}, use_base_template=True)
    assert "generation_config.json" not in {one.path for one in bench.hub.requests}
