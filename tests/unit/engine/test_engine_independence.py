"""A seeded request's tokens and log probabilities, bit for bit: alone, in a crowd, at any number of threads, however its prompt
came into the cache."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from services.worker.engine.local import engine_config
from services.worker.engine.local.local_engine import LocalEngine
from tests.support.engine import Answer, answer, files_of, running_engine
from tests.support.models import write_random_adapter, write_tiny_base

CONTEXT = 4096
# Beyond a thousand positions, and no multiple of anything.
PROMPT = [3 + (place * 7919) % 380 for place in range(1_237)]
SAMPLING: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "seed": 42, "max_tokens": 40, "logprobs": 3}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_base(tmp_path_factory.mktemp("base"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_adapter(tmp_path_factory.mktemp("adapters") / "a", base, rank=5, seed=1)


@pytest.fixture(autouse=True)
def as_many_threads_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine takes no more than the machine has; here three are to meet on whatever there is."""
    monkeypatch.setattr(engine_config, "most_threads", lambda: 64)


def prompt_of(number: int, length: int) -> list[int]:
    return [3 + (place * 31 + number) % 380 for place in range(length)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_its_company_its_threads_and_its_chunks_change_no_bit(
    base: Path, adapter: Path, dtype: str
) -> None:
    seen: dict[str, list[Answer]] = {"base": [], "adapter": []}

    async def ask(engine: LocalEngine, name: str | None) -> Answer:
        return await answer(engine, PROMPT, adapter=name, **SAMPLING)

    for threads, prefill in ((1, 512), (2, 512), (3, 100)):
        options: dict[str, Any] = {
            "dtype": dtype,
            "threads": threads,
            "prefill_tokens": prefill,
            "kv_tokens": 12_288,
        }
        async with running_engine(base, **options) as engine, engine.adapter(files_of(adapter)):
            for kind, name in (("base", None), ("adapter", adapter.name)):
                seen[kind].append(await ask(engine, name))
                # Its prompt is there already, all but the last block.
                again = await ask(engine, name)
                assert again.cached_tokens >= len(PROMPT) - 32
                seen[kind].append(again)
            crowd = [
                answer(engine, prompt_of(number, length), adapter=name, temperature=1.0, max_tokens=60)
                for number, length in enumerate((5, 700, 40, 300, 1_100))
                for name in (None, adapter.name)
            ]
            among = asyncio.gather(ask(engine, None), ask(engine, adapter.name), *crowd)
            by_base, by_adapter, *_ = await among
            seen["base"].append(by_base)
            seen["adapter"].append(by_adapter)
    for answers in seen.values():
        assert len({tuple(one.token_ids) for one in answers}) == 1
        assert all(one.logprobs == answers[0].logprobs for one in answers)
    assert seen["base"][0].token_ids != seen["adapter"][0].token_ids


# Of each, a base's family and what an adapter brings beside deltas of the layers.
BROUGHT: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "embedding, DoRA": ("llama", {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}),
    "embedding, scaled": ("gemma3", {"target_modules": ["embed_tokens", "q_proj"]}),
    "tokens, tied": ("qwen2", {"trainable_token_indices": list(range(3, 380, 2))}),
    "tokens of the output layer": ("llama", {"trainable_token_indices": {"lm_head": [5, 300, 17]}}),
    "tokens, logits bent": ("gemma2", {"trainable_token_indices": {"lm_head": list(range(3, 380, 2))}}),
    "modules": ("llama", {"modules_to_save": ["embed_tokens", "lm_head", "model.norm"]}),
}


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("brought", BROUGHT)
async def test_nor_do_they_where_the_embedding_or_the_output_layer_is_the_adapters(
    tmp_path: Path, brought: str, dtype: str
) -> None:
    family, options = BROUGHT[brought]
    base = write_tiny_base(tmp_path / "base", family=family)
    adapter = write_random_adapter(
        tmp_path / "own", base, rank=5, **{"target_modules": ["q_proj"], **options}
    )
    other = write_random_adapter(tmp_path / "other", base, rank=3, seed=2, target_modules=["q_proj"])
    prompt = PROMPT[:203]
    seen: list[Answer] = []
    for threads, prefill in ((1, 512), (3, 512), (1, 48), (3, 48)):
        config: dict[str, Any] = {"dtype": dtype, "threads": threads, "prefill_tokens": prefill}
        async with (
            running_engine(base, **config) as engine,
            engine.adapter(files_of(adapter)),
            engine.adapter(files_of(other)),
        ):
            assert engine.capabilities.mode.startswith("native/")
            seen.append(await answer(engine, prompt, adapter=adapter.name, **SAMPLING))
            crowd = [
                answer(engine, prompt_of(number, 4 + number), adapter=name, max_tokens=60)
                for number in range(6)
                for name in (adapter.name, other.name, None)
            ]
            among, *_ = await asyncio.gather(answer(engine, prompt, adapter=adapter.name, **SAMPLING), *crowd)
            seen.append(among)
    assert len({tuple(one.token_ids) for one in seen}) == 1
    assert all(one.logprobs == seen[0].logprobs for one in seen)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_a_sequence_that_had_to_make_room_goes_on_as_it_would_have(base: Path, dtype: str) -> None:
    prompts = [prompt_of(number, 600) for number in range(3)]
    sampling: dict[str, Any] = {"temperature": 1.0, "seed": 7, "max_tokens": 200, "logprobs": 0}
    async with running_engine(base, dtype=dtype, threads=2, kv_tokens=8_192) as engine:
        expected = [await answer(engine, prompt, **sampling) for prompt in prompts]
    # Room for two and a half of them: the youngest is put back, and computed anew.
    async with running_engine(base, dtype=dtype, threads=2, kv_tokens=2_000, prefix_cache=False) as engine:
        got = await asyncio.gather(*(answer(engine, prompt, **sampling) for prompt in prompts))
        assert engine.stats().preemptions_total > 0
    assert [one.token_ids for one in got] == [one.token_ids for one in expected]
    assert [one.logprobs for one in got] == [one.logprobs for one in expected]


PENALTIES: list[dict[str, Any]] = [
    {},
    {"presence_penalty": 1.5},
    {"frequency_penalty": -1.5},
    {"repetition_penalty": 1.3},
    {"presence_penalty": 0.5, "frequency_penalty": 0.7, "repetition_penalty": 0.8, "logit_bias": {5: 3.0}},
    {"temperature": 0.0, "frequency_penalty": 2.0, "logit_bias": {9: -4.0}},
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernels", ["auto", "off"])
async def test_a_sequence_that_another_engine_began_goes_on_as_that_would_have(
    base: Path, adapter: Path, dtype: str, kernels: str
) -> None:
    prompt = PROMPT[:203]
    options: dict[str, Any] = {"dtype": dtype, "kernels": kernels}
    async with (
        running_engine(base, threads=2, **options) as one,
        running_engine(base, **options) as other,
        one.adapter(files_of(adapter)),
        other.adapter(files_of(adapter)),
    ):
        for place, more in enumerate(PENALTIES):
            asked = {**SAMPLING, **more, "adapter": adapter.name if place % 2 else None}
            whole = await answer(one, prompt, **asked)
            for produced in (1, 16, 39):
                begun = whole.token_ids[:produced]
                # The second time it is found in the cache, as output of the prompt.
                for _ in range(2):
                    rest = await answer(other, prompt, produced=begun, **asked)
                    assert rest.token_ids == whole.token_ids[produced:]
                    assert rest.finish is whole.finish
                    assert rest.cached_tokens <= len(prompt)
                    if kernels == "auto":  # torch's sums depend on the shape of a batch
                        assert rest.logprobs == whole.logprobs[produced:]
        stats = other.stats()
        asked_for = len(PENALTIES) * 3 * 2
        assert stats.prompt_tokens_total == asked_for * len(prompt)
        new = sum(40 - produced for produced in (1, 16, 39))
        assert stats.completion_tokens_total == len(PENALTIES) * 2 * new
