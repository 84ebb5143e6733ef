"""Memory for adapters: what is resident and on its way never exceeds the bound, however they come and go."""

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from services.common.adapters.config import parse_config
from services.common.adapters.targets import BaseModules
from services.common.errors import InvalidFieldError, PreconditionError
from services.worker.engine.interface import AdapterFiles
from services.worker.engine.local.adapters.delta import Delta
from services.worker.engine.local.adapters.loaded_adapter import AdapterWeights, LoadedAdapter
from services.worker.engine.local.adapters.loaded_size import most_bytes
from services.worker.engine.local.adapters.slots import AdapterSlots
from services.worker.engine.local.local_engine import LocalEngine
from tests.support.engine import answer, files_of, make_request, running_engine
from tests.support.models import write_random_adapter, write_tiny_base

BOUND = 1_000


def size_of(files: AdapterFiles) -> int:
    """Bytes in memory, by the digest: `300-a`."""
    return int(files.digest.split("-")[0])


def files(digest: str) -> AdapterFiles:
    return AdapterFiles(digest, Path("/nowhere"))


class Memory:
    """What loads adapters of the sizes that they say, or half of it, and watches the bound."""

    def __init__(self, *, part: float = 1.0) -> None:
        self.part = part
        self.left: list[str] = []
        self.slots: AdapterSlots | None = None

    def load(self, wanted: AdapterFiles) -> LoadedAdapter:
        numbers = int(size_of(wanted) * self.part) // 4
        return LoadedAdapter(wanted.digest, AdapterWeights({"m": Delta(bias=torch.ones(numbers))}))

    def check(self) -> None:
        assert self.slots is not None
        assert sum(slot.nbytes for slot in self.slots._slots.values()) <= BOUND


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture(autouse=True)
async def one_after_the_other() -> AsyncIterator[None]:
    with ThreadPoolExecutor(1) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        yield


def made(memory: Memory, executor: ThreadPoolExecutor, *, count: int = 0) -> AdapterSlots:
    memory.slots = AdapterSlots(
        count,
        memory.load,
        executor,
        most_bytes=size_of,
        max_bytes=BOUND,
        evicted=lambda adapter: memory.left.append(adapter.digest),
    )
    return memory.slots


async def use(slots: AdapterSlots, digest: str) -> None:
    async with slots.hold(files(digest)):
        pass


async def settle() -> None:
    for _ in range(3):
        await asyncio.to_thread(lambda: None)
        await asyncio.sleep(0)


async def test_those_that_nobody_holds_go_and_no_more_than_need_be(executor: ThreadPoolExecutor) -> None:
    memory = Memory()
    slots = made(memory, executor)
    for digest in ("300-a", "300-b", "300-c"):
        await use(slots, digest)
    async with slots.hold(files("300-a")):
        await use(slots, "400-d")
        assert memory.left == ["300-b"]
        await use(slots, "600-e")
        assert list(slots.residents()) == ["300-a", "600-e"]


async def test_who_does_not_fit_beside_what_is_held_waits_and_evicts_nothing_in_vain(
    executor: ThreadPoolExecutor,
) -> None:
    memory = Memory()
    slots = made(memory, executor)
    await use(slots, "200-idle")
    async with slots.hold(files("500-held")):
        waiting = asyncio.create_task(use(slots, "600-large"))
        await settle()
        assert not waiting.done()
        assert memory.left == []
        # Whoever comes behind waits too, so that a large one is not starved by small ones.
        small = asyncio.create_task(use(slots, "100-small"))
        await settle()
        assert not small.done()
    await asyncio.gather(waiting, small)
    assert memory.left == ["200-idle", "500-held"]


async def test_as_many_yield_as_the_bytes_that_wait_need(executor: ThreadPoolExecutor) -> None:
    slots = made(Memory(), executor)
    async with slots.hold(files("300-a")), slots.hold(files("300-b")), slots.hold(files("300-c")):
        waiting = asyncio.create_task(use(slots, "600-d"))
        await settle()
        assert [slot.yielding for slot in slots._slots.values()] == [True, True, False]
        await use(slots, "300-c")
        late = asyncio.create_task(use(slots, "300-b"))
        await settle()
        assert not late.done()
    await asyncio.gather(waiting, late)
    assert not any(slot.yielding for slot in slots._slots.values())


async def test_what_takes_less_than_was_thought_leaves_the_rest(executor: ThreadPoolExecutor) -> None:
    slots = made(Memory(part=0.5), executor)
    async with slots.hold(files("800-a")):
        await asyncio.wait_for(use(slots, "600-b"), 30)


async def test_one_that_is_larger_than_all_the_room_is_refused_by_its_bytes(
    executor: ThreadPoolExecutor,
) -> None:
    memory = Memory()
    slots = made(memory, executor)
    await use(slots, "400-a")
    with pytest.raises(PreconditionError) as caught:
        await use(slots, "1001-b")
    assert caught.value.reason == "ADAPTER_ABOVE_WORKER_MEMORY"
    assert (caught.value.metadata["bytes"], caught.value.metadata["most_bytes"]) == ("1001", "1000")
    assert list(slots.residents()) == ["400-a"]
    assert not slots._queue
    await use(slots, "1000-c")
    assert list(slots.residents()) == ["1000-c"]


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("seed", range(5))
async def test_whoever_comes_the_bound_holds_and_all_are_served(
    executor: ThreadPoolExecutor, seed: int, count: int
) -> None:
    memory, dice = Memory(part=0.9), random.Random(seed)
    slots = made(memory, executor, count=count)
    digests = [f"{dice.randint(20, 1_000)}-{number}" for number in range(12)]

    async def one(digest: str, turns: int) -> None:
        async with slots.hold(files(digest)) as adapter:
            assert adapter.digest == digest
            for _ in range(turns):
                memory.check()
                await asyncio.sleep(0)

    asked = [dice.choice(digests) for _ in range(200)]
    tasks = [asyncio.create_task(one(digest, dice.randint(0, 30))) for digest in asked]
    for task in dice.sample(tasks, 20):
        await asyncio.sleep(0)
        task.cancel()
    ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
    assert all(one is None or isinstance(one, asyncio.CancelledError) for one in ended)
    memory.check()
    assert not any(slot.pins for slot in slots._slots.values())


async def test_on_a_cpu_adapters_are_bounded_by_bytes_alone_and_leave_memory_when_they_go(
    tmp_path: Path,
) -> None:
    base = write_tiny_base(tmp_path / "base")
    folders = [
        write_random_adapter(tmp_path / f"a{number}", base, rank=4, seed=number) for number in range(40)
    ]
    async with running_engine(base) as engine:
        for folder in folders:
            async with engine.adapter(files_of(folder)):
                await answer(engine, [5], adapter=folder.name, max_tokens=1)
        assert len(engine.stats().adapters) == 40
        size = max(engine.stats().adapter_bytes.values())
    async with running_engine(base, adapter_bytes=8 * size, host_cache_bytes=1 << 30) as engine:
        for folder in (*folders, folders[0]):
            async with engine.adapter(files_of(folder)):
                pass
            assert sum(engine.stats().adapter_bytes.values()) <= 8 * size
        assert engine.stats().host_cache_hits_total == 0
        assert 2 <= len(engine.stats().adapters) <= 8


async def test_memory_is_given_to_no_other_while_a_step_still_uses_it(tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "base")
    one, other = (write_random_adapter(tmp_path / name, base, rank=4, seed=7) for name in ("one", "other"))
    async with running_engine(base, adapter_slots=1) as engine:
        begun, go_on = threading.Event(), threading.Event()
        run = engine._loop._runner.run

        def slow(chunks: Any) -> torch.Tensor:
            begun.set()
            assert go_on.wait(30)
            return run(chunks)

        engine._loop._runner.run = slow  # type: ignore[method-assign]
        async with engine.adapter(files_of(one)):
            outputs = engine.generate(make_request([5, 6], adapter=one.name))
            first = asyncio.create_task(anext(outputs))
            await asyncio.to_thread(begun.wait, 30)
            first.cancel()
            with suppress(asyncio.CancelledError):
                await first
        # Nobody holds it, and the step is not over.
        waiting = asyncio.create_task(answer_with(engine, other))
        await settle()
        assert list(engine.stats().adapters) == [one.name]
        go_on.set()
        await waiting
        assert list(engine.stats().adapters) == [other.name]


async def answer_with(engine: LocalEngine, folder: Path) -> None:
    async with engine.adapter(files_of(folder)):
        await answer(engine, [5], adapter=folder.name, max_tokens=1)


async def test_who_waited_is_not_overtaken_once_an_adapter_yields_no_more(
    executor: ThreadPoolExecutor,
) -> None:
    slots = made(Memory(), executor)
    async with slots.hold(files("500-a")), slots.hold(files("400-b")):
        large = asyncio.create_task(use(slots, "300-c"))
        await settle()
        old = asyncio.create_task(use(slots, "500-a"))  # which yields
        await settle()
        assert not old.done()
        large.cancel()
        await asyncio.wait_for(old, 30)


def test_copies_of_the_bases_weights_and_matrices_in_parts_are_counted_as_they_are_kept(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    prefix = "base_model.model.model."
    tensors = {
        f"{prefix}embed_tokens.weight": torch.zeros(3_000, 64),
        f"{prefix}layers.0.mlp.gate_up_proj.lora_A.weight": torch.zeros(16, 64),
        f"{prefix}layers.0.mlp.gate_up_proj.lora_B.weight": torch.zeros(64, 16),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = parse_config(
        b'{"peft_type": "LORA", "r": 16, "target_modules": ["gate_up_proj"]}',
        BaseModules("phi3", frozenset(), frozenset({"model.layers.0.mlp.gate_up_proj"})),
    )
    matrix = 16 * 64 * 4 + 8 * 80
    assert most_bytes(folder, config, torch.float32, lambda _: 2) == 3 * matrix
    assert most_bytes(folder, config, torch.float32, lambda _: 0) == 2 * matrix


async def test_a_file_that_is_none_is_refused_before_room_is_made(tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "base")
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (folder / "adapter_model.safetensors").write_bytes(b"not a header")
    async with running_engine(base) as engine:
        with pytest.raises(InvalidFieldError) as caught:
            async with engine.adapter(files_of(folder)):
                pass
        assert caught.value.reason == "ADAPTER_TENSORS_INVALID"
        assert engine.stats().adapter_loads_total == 0
