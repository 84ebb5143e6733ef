"""The engine as a whole, on miniature models: who joins and leaves, and what each gets."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from services.common.errors import InvalidFieldError
from services.worker.engine.interface import Finish
from tests.support.engine import (
    answer,
    answers,
    assert_all_is_free,
    files_of,
    make_request,
    running_engine,
)
from tests.support.models import write_random_adapter, write_tiny_base

EOS = 2
PROMPTS = [list(range(10, 10 + length)) for length in (1, 5, 17, 40)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [write_random_adapter(folder / f"a{rank}", base, rank=rank, seed=rank) for rank in (4, 8)]


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
async def test_a_prompt_in_chunks_gives_the_same_tokens(tmp_path: Path, family: str) -> None:
    folder = write_tiny_base(tmp_path, family=family)
    async with running_engine(folder) as whole, running_engine(folder, prefill_tokens=7) as chunked:
        assert await answers(chunked, PROMPTS) == await answers(whole, PROMPTS)


async def test_sequences_that_give_way_give_the_same_tokens_in_the_end(base: Path) -> None:
    prompts = [list(range(start, start + 20)) for start in range(10, 70, 10)]
    async with running_engine(base) as roomy, running_engine(base, kv_tokens=96) as tight:
        expected = await answers(roomy, prompts, max_tokens=60)
        assert await answers(tight, prompts, max_tokens=60) == expected
        assert tight.stats().prompt_tokens_total == 6 * 20
        assert tight.stats().completion_tokens_total == 6 * 60
        await assert_all_is_free(tight)


async def test_more_sequences_than_may_run_at_once_all_end(base: Path) -> None:
    async with running_engine(base, max_sequences=2) as engine:
        alone = [(await answer(engine, prompt)).token_ids for prompt in PROMPTS]
        assert await answers(engine, PROMPTS) == alone


async def test_each_sequence_gets_its_own_adapter_in_one_batch(base: Path, adapters: list[Path]) -> None:
    async with (
        running_engine(base) as engine,
        engine.adapter(files_of(adapters[0])),
        engine.adapter(files_of(adapters[1])),
    ):
        names = [None, adapters[0].name, adapters[1].name]
        alone = [(await answer(engine, PROMPTS[2], adapter=name)).token_ids for name in names]
        together = await asyncio.gather(*(answer(engine, PROMPTS[2], adapter=name) for name in names * 2))
    assert [one.token_ids for one in together] == alone * 2
    assert len({tuple(one) for one in alone}) == 3


async def test_bfloat16_serves_a_mixed_batch(base: Path, adapters: list[Path]) -> None:
    async with running_engine(base, dtype="bfloat16") as engine, engine.adapter(files_of(adapters[0])):
        jobs = [
            answer(engine, prompt, adapter=name) for prompt in PROMPTS for name in (None, adapters[0].name)
        ]
        done = await asyncio.gather(*jobs)
    assert [(len(one.token_ids), one.finish) for one in done] == [(20, Finish.LENGTH)] * len(jobs)


async def test_adapters_share_a_slot_one_after_the_other(base: Path, adapters: list[Path]) -> None:
    async with running_engine(base, adapter_slots=1) as engine:

        async def use(folder: Path) -> list[int]:
            async with engine.adapter(files_of(folder)):
                assert engine.stats().adapters == {folder.name: 1}
                return (await answer(engine, PROMPTS[1], adapter=folder.name)).token_ids

        first, second = await asyncio.gather(use(adapters[0]), use(adapters[1]))
        assert first != second
        size = sum(weight.nbytes for weight in load_file(adapters[1] / "adapter_model.safetensors").values())
        assert set(engine.stats().adapter_bytes) == {adapters[1].name}
        # Packed for the kernels, small ranks are rounded up to whole vectors.
        assert size <= engine.stats().adapter_bytes[adapters[1].name] <= 2 * size
        assert engine.stats().adapters == {adapters[1].name: 0}


@pytest.mark.parametrize("taken", [0, 1, 3])
async def test_closing_the_iterator_frees_what_the_sequence_has(base: Path, taken: int) -> None:
    async with running_engine(base) as engine:
        outputs = engine.generate(make_request(PROMPTS[3], max_tokens=900))
        for _ in range(taken):
            await anext(outputs)
        await outputs.aclose()
        await assert_all_is_free(engine)
        assert engine.stats().completion_tokens_total < 900


async def test_cancelled_consumers_free_what_runs_and_what_waits(base: Path) -> None:
    async with running_engine(base, max_sequences=1) as engine:
        started = asyncio.Event()

        async def consume() -> None:
            async with aclosing(engine.generate(make_request(PROMPTS[3], max_tokens=900))) as outputs:
                async for _ in outputs:
                    started.set()

        tasks = [asyncio.create_task(consume()) for _ in range(3)]
        await started.wait()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await assert_all_is_free(engine)
        assert engine.stats().completion_tokens_total < 900


async def test_a_consumer_that_lags_gets_the_tokens_joined(base: Path) -> None:
    async with running_engine(base) as engine:
        expected = (await answer(engine, PROMPTS[1], max_tokens=30)).token_ids
        async with aclosing(engine.generate(make_request(PROMPTS[1], max_tokens=30, logprobs=0))) as outputs:
            first = await anext(outputs)
            await answer(engine, PROMPTS[1], max_tokens=40)  # ends after the thirty
            second = await anext(outputs)
            assert second.finish is Finish.LENGTH
            assert [*first.token_ids, *second.token_ids] == expected
            assert len(second.logprobs) == len(second.token_ids)
            with pytest.raises(StopAsyncIteration):
                await anext(outputs)


async def test_the_models_end_of_text_ends_a_sequence_and_is_not_returned(base: Path) -> None:
    async with running_engine(base) as engine:
        ended = await answer(engine, PROMPTS[1], logit_bias={EOS: 100.0}, ignore_eos=False)
        assert (ended.token_ids, ended.finish) == ([], Finish.STOP)
        went_on = await answer(engine, PROMPTS[1], logit_bias={EOS: 100.0}, max_tokens=3)
        assert (went_on.token_ids, went_on.finish) == ([EOS] * 3, Finish.LENGTH)


async def test_a_stop_token_of_the_request_ends_it_even_past_the_end_of_text(base: Path) -> None:
    async with running_engine(base) as engine:
        produced = (await answer(engine, PROMPTS[1])).token_ids
        stop = produced[6]
        ended = await answer(engine, PROMPTS[1], stop_token_ids=frozenset({stop}), logprobs=1)
        assert ended.token_ids == produced[: produced.index(stop)]
        assert ended.finish is Finish.STOP
        assert len(ended.logprobs) == len(ended.token_ids)


async def test_a_seeded_sequence_does_not_depend_on_its_neighbours_and_can_be_resumed(base: Path) -> None:
    sampling: dict[str, Any] = {"temperature": 1.0, "seed": 42, "top_p": 0.9}
    async with running_engine(base) as engine:
        alone = (await answer(engine, PROMPTS[2], **sampling)).token_ids
        crowd = [answer(engine, prompt, temperature=1.0, seed=place) for place, prompt in enumerate(PROMPTS)]
        among, *_ = await asyncio.gather(answer(engine, PROMPTS[2], **sampling), *crowd)
        assert among.token_ids == alone
        rest = await answer(engine, PROMPTS[2], produced=alone[:8], **sampling)
        assert rest.token_ids == alone[8:]
        assert (await answer(engine, PROMPTS[2], **{**sampling, "seed": 43})).token_ids != alone


async def test_logprobs_agree_with_greedy_choice(base: Path) -> None:
    async with running_engine(base) as engine:
        done = await answer(engine, PROMPTS[2], logprobs=3)
        assert [one.token_id for one in done.logprobs] == done.token_ids
        assert [one.top[0][0] for one in done.logprobs] == done.token_ids
        assert all(one.logprob == one.top[0][1] for one in done.logprobs)


async def test_a_request_that_can_never_run_is_refused_at_once(base: Path) -> None:
    async with running_engine(base, kv_tokens=64) as engine:
        assert engine.context_length == 64
        await answer(engine, [5] * 4, max_tokens=60)
        for field, request in (
            ("prompt", make_request([])),
            ("prompt", make_request([3, 384])),
            ("prompt", make_request([-1])),
            ("max_tokens", make_request([5] * 4, max_tokens=61)),
            ("max_tokens", make_request([5], max_tokens=0)),
            ("max_tokens", make_request([5], max_tokens=3, produced=[6, 7, 8])),
            ("produced", make_request([5], produced=[6, 384])),
            ("logit_bias", make_request([5], logit_bias={384: 1.0})),
            ("adapter", make_request([5], adapter="nobody holds it")),
        ):
            with pytest.raises(InvalidFieldError) as caught:
                engine.generate(request)
            assert caught.value.field == field


async def test_an_adapter_that_was_let_go_is_refused(base: Path, adapters: list[Path]) -> None:
    async with running_engine(base) as engine:
        async with engine.adapter(files_of(adapters[0])):
            await answer(engine, [5], adapter=adapters[0].name)
        with pytest.raises(InvalidFieldError, match="held"):
            engine.generate(make_request([5], adapter=adapters[0].name))


async def test_the_counts_add_up(base: Path) -> None:
    async with running_engine(base) as engine:
        await answers(engine, PROMPTS, max_tokens=7)
        stats = engine.stats()
        assert stats.prompt_tokens_total == sum(len(prompt) for prompt in PROMPTS)
        assert stats.completion_tokens_total == 7 * len(PROMPTS)
        assert (stats.running, stats.waiting, stats.adapters) == (0, 0, {})
