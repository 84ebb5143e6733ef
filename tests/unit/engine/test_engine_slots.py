"""Adapters come, stay while held, and go; nobody waits for ever."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.common.errors import InvalidFieldError
from services.worker.engine.interface import AdapterFiles, EngineStoppedError
from services.worker.engine.local.adapters.loaded_adapter import AdapterWeights, LoadedAdapter
from services.worker.engine.local.adapters.slots import AdapterSlots


def files(digest: str) -> AdapterFiles:
    return AdapterFiles(digest, Path("/nowhere"))


class Disk:
    """Loads adapters when let, and remembers in which order."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.broken: set[str] = set()

    def load(self, wanted: AdapterFiles) -> LoadedAdapter:
        self.loaded.append(wanted.digest)
        assert self.open.wait(30)
        if wanted.digest in self.broken:
            raise InvalidFieldError("tensor", wanted.digest, "whole")
        return LoadedAdapter(wanted.digest, AdapterWeights())


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


class Holder:
    """A task that holds an adapter until told to let go."""

    def __init__(self, slots: AdapterSlots, digest: str) -> None:
        self.has_it = asyncio.Event()
        self.let_go = asyncio.Event()
        self.task = asyncio.create_task(self._run(slots, digest))

    async def _run(self, slots: AdapterSlots, digest: str) -> None:
        async with slots.hold(files(digest)) as adapter:
            assert adapter.digest == digest
            self.has_it.set()
            await self.let_go.wait()

    async def release(self) -> None:
        self.let_go.set()
        await self.task


async def settle() -> None:
    """Let everything that can run on the event loop run, and all that was to be measured be measured."""
    for _ in range(20):
        await asyncio.sleep(0)
    await asyncio.to_thread(lambda: None)
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
async def one_after_the_other() -> AsyncIterator[None]:
    """What the loop gives to a thread is done in the order in which it was given."""
    with ThreadPoolExecutor(1) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        yield


@pytest.fixture
async def slots(disk: Disk, executor: ThreadPoolExecutor) -> AdapterSlots:
    return AdapterSlots(2, disk.load, executor, most_bytes=lambda _: 1, max_bytes=10**9)


async def use(slots: AdapterSlots, digest: str) -> None:
    async with slots.hold(files(digest)):
        pass


async def test_all_who_ask_at_once_share_one_load(slots: AdapterSlots, disk: Disk) -> None:
    disk.open.clear()
    holders = [Holder(slots, "a") for _ in range(5)]
    await settle()
    disk.open.set()
    for holder in holders:
        await holder.has_it.wait()
    assert disk.loaded == ["a"]
    assert slots.residents()["a"][1] == 5
    for holder in holders:
        await holder.release()
    assert slots.residents()["a"][1] == 0


async def test_the_least_recently_used_one_makes_room(slots: AdapterSlots, disk: Disk) -> None:
    for digest in ("a", "b", "a", "c"):
        await use(slots, digest)
    assert list(slots.residents()) == ["a", "c"]
    assert disk.loaded == ["a", "b", "c"]


async def test_a_place_is_had_even_where_what_was_there_cannot_be_kept(
    disk: Disk, executor: ThreadPoolExecutor
) -> None:
    def fail(_adapter: LoadedAdapter) -> None:
        raise MemoryError

    slots = AdapterSlots(1, disk.load, executor, most_bytes=lambda _: 1, max_bytes=10**9, evicted=fail)
    for digest in ("a", "b", "c"):
        await use(slots, digest)
    assert list(slots.residents()) == ["c"]


async def test_a_held_one_stays_however_long_ago_it_was_asked_for(slots: AdapterSlots) -> None:
    async with slots.hold(files("a")):
        for digest in ("b", "c", "d"):
            await use(slots, digest)
        assert list(slots.residents()) == ["a", "d"]
        assert slots.is_held("a")
    assert not slots.is_held("a")


async def test_when_all_are_held_the_next_waits_for_the_first_to_be_let_go(slots: AdapterSlots) -> None:
    first, second = Holder(slots, "a"), Holder(slots, "b")
    await asyncio.gather(first.has_it.wait(), second.has_it.wait())
    third = Holder(slots, "c")
    await settle()
    assert not third.has_it.is_set()
    await second.release()
    await third.has_it.wait()
    assert list(slots.residents()) == ["a", "c"]
    await first.release()
    await third.release()


async def test_slots_go_to_those_who_wait_in_their_order(slots: AdapterSlots, disk: Disk) -> None:
    holders = [Holder(slots, digest) for digest in ("a", "b", "c", "d", "e")]
    await asyncio.gather(*(holder.has_it.wait() for holder in holders[:2]))
    for place in (2, 3, 4):
        await holders[place - 2].release()
        await holders[place].has_it.wait()
    assert disk.loaded == ["a", "b", "c", "d", "e"]
    for holder in holders:
        await holder.release()


async def test_a_stream_of_requests_for_a_busy_adapter_does_not_keep_a_cold_one_out(
    slots: AdapterSlots,
) -> None:
    busy, other = Holder(slots, "a"), Holder(slots, "b")
    await asyncio.gather(busy.has_it.wait(), other.has_it.wait())
    cold = Holder(slots, "cold")
    await settle()
    overlapping = Holder(slots, "a")  # would keep "a" held past the first one's end
    await settle()
    await busy.release()
    await cold.has_it.wait()
    assert not overlapping.has_it.is_set()
    await other.release()
    await overlapping.has_it.wait()
    await cold.release()
    await overlapping.release()


async def test_while_one_waits_adapters_that_need_not_yield_go_on(slots: AdapterSlots) -> None:
    first, second = Holder(slots, "a"), Holder(slots, "b")
    await asyncio.gather(first.has_it.wait(), second.has_it.wait())
    cold = Holder(slots, "cold")
    await settle()
    await use(slots, "b")  # "a" was asked for longer ago: it yields
    await first.release()
    await cold.has_it.wait()
    await second.release()
    await cold.release()


async def test_one_that_was_to_yield_takes_requests_again_when_nobody_waits(slots: AdapterSlots) -> None:
    first, second = Holder(slots, "a"), Holder(slots, "b")
    await asyncio.gather(first.has_it.wait(), second.has_it.wait())
    cold = Holder(slots, "cold")
    await settle()
    cold.task.cancel()
    await asyncio.wait([cold.task])
    await use(slots, "a")
    await use(slots, "b")
    await first.release()
    await second.release()


async def test_giving_up_while_it_loads_leaves_the_load_to_the_others(
    slots: AdapterSlots, disk: Disk
) -> None:
    disk.open.clear()
    patient, impatient = Holder(slots, "a"), Holder(slots, "a")
    await settle()
    impatient.task.cancel()
    await asyncio.wait([impatient.task])
    disk.open.set()
    await patient.has_it.wait()
    assert slots.residents()["a"][1] == 1
    await patient.release()


async def test_giving_up_in_the_moment_a_slot_is_granted_gives_it_back(slots: AdapterSlots) -> None:
    first, second = Holder(slots, "a"), Holder(slots, "b")
    await asyncio.gather(first.has_it.wait(), second.has_it.wait())
    third, fourth = Holder(slots, "c"), Holder(slots, "d")
    await settle()
    first.let_go.set()
    await first.task  # the slot is granted to the third, which has not run since
    third.task.cancel()
    await fourth.has_it.wait()
    await second.release()
    await fourth.release()
    assert all(pins == 0 for _, pins in slots.residents().values())


async def test_an_adapter_that_cannot_be_loaded_fails_for_all_and_keeps_no_slot(
    slots: AdapterSlots, disk: Disk
) -> None:
    disk.broken.add("bad")
    results = await asyncio.gather(*(use(slots, "bad") for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [InvalidFieldError] * 3
    assert disk.loaded == ["bad"]
    assert slots.residents() == {}
    disk.broken.clear()
    await use(slots, "bad")
    assert disk.loaded == ["bad", "bad"]


async def test_a_failed_load_gives_its_slot_to_those_who_wait(slots: AdapterSlots, disk: Disk) -> None:
    disk.broken.add("bad")
    disk.open.clear()
    holder, bad, next_one = Holder(slots, "a"), Holder(slots, "bad"), Holder(slots, "c")
    await settle()
    disk.open.set()
    await next_one.has_it.wait()
    with pytest.raises(InvalidFieldError):
        await bad.task
    await holder.release()
    await next_one.release()


async def test_closing_ends_those_who_wait_and_those_who_come(slots: AdapterSlots) -> None:
    async with AsyncExitStack() as held:
        for digest in ("a", "b"):
            await held.enter_async_context(slots.hold(files(digest)))
        waiting = Holder(slots, "c")
        await settle()
        slots.close()
        with pytest.raises(EngineStoppedError):
            await waiting.task
        with pytest.raises(EngineStoppedError):
            await use(slots, "a")
    assert slots.residents() == {}
