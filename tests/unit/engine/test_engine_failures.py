"""What goes wrong with one sequence ends that one, and the engine goes on."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from services.common.errors import InvalidFieldError
from services.worker.engine.interface import EngineStoppedError
from services.worker.engine.local.adapters.loaded_adapter import LoadedAdapter
from services.worker.engine.local.engine_config import EngineConfig
from services.worker.engine.local.local_engine import LocalEngine
from services.worker.engine.local.runner import Runner
from services.worker.engine.local.schedule.scheduler import StepChunk
from tests.support.engine import (
    answer,
    answers,
    assert_all_is_free,
    files_of,
    make_request,
    running_engine,
)
from tests.support.models import LLAMA_MODULES, write_random_adapter, write_tiny_base

EOS = 2
PROMPTS = [list(range(10, 10 + length)) for length in (1, 5, 17, 40)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [write_random_adapter(folder / f"a{rank}", base, rank=rank, seed=rank) for rank in (4, 8)]


def overflowing(adapter: Path, folder: Path) -> Path:
    """A copy of an adapter whose weights are finite and whose products are not."""
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: weight.sign() * 1e38 for name, weight in weights.items()}, folder / "adapter_model.safetensors"
    )
    return folder


async def test_an_adapter_that_overflows_ends_its_own_sequences_only(
    base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    broken = overflowing(adapters[0], tmp_path / "broken")
    good = adapters[1].name
    async with (
        running_engine(base, kv_tokens=256) as engine,
        engine.adapter(files_of(broken)),
        engine.adapter(files_of(adapters[1])),
    ):
        alone = [(await answer(engine, PROMPTS[2], adapter=name)).token_ids for name in (None, good)]
        with_broken = await asyncio.gather(
            answer(engine, PROMPTS[3], adapter=broken.name),
            answer(engine, PROMPTS[2]),
            answer(engine, PROMPTS[2], adapter=good),
            return_exceptions=True,
        )
        assert isinstance(with_broken[0], EngineStoppedError)
        assert [getattr(one, "token_ids", one) for one in with_broken[1:]] == alone
        await assert_all_is_free(engine)


@pytest.mark.parametrize("kernels", ["auto", "off"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_an_adapter_that_is_no_number_at_any_one_place_is_found_by_every_runner(
    base: Path, tmp_path: Path, kernels: str, dtype: str
) -> None:
    """Weights that are finite, of which one projection makes infinity less infinity."""
    async with running_engine(base, kernels=kernels, dtype=dtype) as engine:
        for module in LLAMA_MODULES:
            folder = write_random_adapter(tmp_path / module, base, rank=2, target_modules=[module])
            weights = load_file(folder / "adapter_model.safetensors")
            for name, weight in weights.items():
                weight.fill_(3e38 if ".lora_A." in name else 1.0)
                if ".lora_B." in name:
                    weight[:, 1] = -1.0
            save_file(weights, folder / "adapter_model.safetensors")
            async with engine.adapter(files_of(folder)):
                with pytest.raises(EngineStoppedError, match="finite"):
                    await answer(engine, PROMPTS[2], adapter=folder.name)
        await assert_all_is_free(engine)


async def test_what_a_broken_sequence_leaves_in_its_blocks_reaches_nobody(
    base: Path, adapters: list[Path], tmp_path: Path
) -> None:
    broken = overflowing(adapters[0], tmp_path / "broken")
    prompts = [PROMPTS[1], PROMPTS[2]]  # of unlike length: the shorter one is padded to the longer
    async with running_engine(base, kv_tokens=96) as engine, engine.adapter(files_of(broken)):
        before = await answers(engine, prompts)
        with pytest.raises(EngineStoppedError):
            await answer(engine, range(10, 100), adapter=broken.name, max_tokens=6)  # fills the whole cache
        assert await answers(engine, prompts) == before


def failing_where(engine: LocalEngine, fails: Callable[[StepChunk[LoadedAdapter]], bool]) -> Runner:
    """The engine's runner, whose steps fail where a chunk of theirs does."""
    runner = engine._loop._runner
    run = runner.run

    def run_or_fail(chunks: Sequence[StepChunk[LoadedAdapter]]) -> Tensor:
        if any(fails(chunk) for chunk in chunks):
            raise torch.OutOfMemoryError
        return run(chunks)

    runner.run = run_or_fail  # type: ignore[method-assign]
    return runner


@pytest.mark.parametrize("kernels", ["auto", "off"])
async def test_of_a_step_that_fails_only_who_fails_alone_is_ended(base: Path, kernels: str) -> None:
    async with running_engine(base, kernels=kernels) as engine:
        expected = await answers(engine, PROMPTS, temperature=1.0, seed=3)
        failing_where(
            engine, lambda chunk: chunk.sequence.prompt_length == 17 and chunk.sequence.output_length == 5
        )
        results = await asyncio.gather(
            *(answer(engine, prompt, temperature=1.0, seed=3) for prompt in PROMPTS), return_exceptions=True
        )
        assert isinstance(results[2], EngineStoppedError)
        others = [place for place in range(len(PROMPTS)) if place != 2]
        assert [getattr(results[place], "token_ids", None) for place in others] == [
            expected[place] for place in others
        ]
        assert not engine.failed.done()
        await assert_all_is_free(engine)


async def test_a_step_too_large_for_the_device_is_done_in_parts(base: Path) -> None:
    async with running_engine(base) as engine:
        expected = await answers(engine, PROMPTS)
        runner = engine._loop._runner
        run = runner.run

        def small_steps_only(chunks: Sequence[StepChunk[LoadedAdapter]]) -> Tensor:
            if len(chunks) > 1:
                raise MemoryError
            return run(chunks)

        runner.run = small_steps_only  # type: ignore[method-assign]
        assert await answers(engine, PROMPTS) == expected


async def test_an_engine_whose_steps_only_fail_says_so(base: Path) -> None:
    """Else its worker would look idle, and be sent all there is."""
    async with running_engine(base) as engine:
        failing_where(engine, lambda _: True)
        for _ in range(3):
            with pytest.raises(EngineStoppedError):
                await answer(engine, PROMPTS[1])
        with pytest.raises(EngineStoppedError):
            await asyncio.wait_for(asyncio.shield(engine.failed), 5)


async def test_requests_that_fail_one_after_another_do_not_end_an_engine_that_is_well(base: Path) -> None:
    async with running_engine(base) as engine:
        failing_where(engine, lambda chunk: chunk.sequence.prompt_length == 5)
        for _ in range(10):
            with pytest.raises(EngineStoppedError, match="step failed"):
                await answer(engine, PROMPTS[1])
        assert not engine.failed.done()
        await answer(engine, PROMPTS[2])
        await assert_all_is_free(engine)


async def test_tokens_from_before_a_failure_still_arrive(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_engine(base) as engine:
        runner = engine._loop._runner
        run = runner.run

        def run_and_fail(chunks: Sequence[StepChunk[LoadedAdapter]]) -> Tensor:
            if chunks[0].sequence.output_length == 5:
                raise RuntimeError
            return run(chunks)

        expected = (await answer(engine, PROMPTS[1])).token_ids[:5]
        monkeypatch.setattr(runner, "run", run_and_fail)
        received: list[int] = []

        async def read() -> None:
            async for output in engine.generate(make_request(PROMPTS[1])):
                received.extend(output.token_ids)

        with pytest.raises(EngineStoppedError, match="step failed"):
            await read()
        assert received == expected


async def test_a_defect_of_the_loop_leaves_nobody_waiting(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_engine(base) as engine:

        def fail() -> list[StepChunk[LoadedAdapter]]:
            raise RuntimeError

        monkeypatch.setattr(engine._loop._scheduler, "schedule", fail)
        for _ in range(2):
            with pytest.raises(EngineStoppedError):
                await answer(engine, PROMPTS[1])
        with pytest.raises(EngineStoppedError):
            await asyncio.wait_for(asyncio.shield(engine.failed), 5)


async def test_stopping_ends_what_runs_and_what_comes_after(base: Path) -> None:
    engine = await LocalEngine.start(EngineConfig(base, dtype="float32", threads=1, kv_tokens=4096))
    outputs = engine.generate(make_request(PROMPTS[1], max_tokens=900))
    await anext(outputs)
    waiting = asyncio.create_task(answer(engine, PROMPTS[2], max_tokens=900))
    await asyncio.sleep(0)
    await engine.stop()
    with pytest.raises(EngineStoppedError):
        async for _ in outputs:
            pass
    with pytest.raises(EngineStoppedError):
        await waiting
    with pytest.raises(EngineStoppedError):
        await answer(engine, PROMPTS[1])
    with pytest.raises(EngineStoppedError):
        async with engine.adapter(files_of(base)):
            pass
    await engine.stop()  # a second time does nothing


async def test_a_broken_adapter_folder_fails_its_holder_and_nothing_else(base: Path, tmp_path: Path) -> None:
    async with running_engine(base) as engine:
        with pytest.raises(InvalidFieldError, match=r"adapter_config\.json"):
            async with engine.adapter(files_of(tmp_path)):
                pass
        assert engine.stats().adapters == {}
        await answer(engine, [5])
