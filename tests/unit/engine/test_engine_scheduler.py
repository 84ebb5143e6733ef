"""Sequences join, advance, give way and leave; blocks are counted to the last one."""

import itertools
import random
from dataclasses import dataclass

import pytest

from services.worker.engine.local.output_streams import OutputStream
from services.worker.engine.local.schedule.block_pool import BlockPool
from services.worker.engine.local.schedule.scheduler import Scheduler, StepChunk
from services.worker.engine.local.schedule.sequence import Sequence
from tests.support.engine import make_request


@dataclass(frozen=True)
class Handle:
    """An adapter, as far as scheduling looks at it."""

    digest: str


def make_sequence(prompt_length: int, adapter: Handle | None = None) -> Sequence[Handle]:
    """A prompt like no other."""
    prompt = [next(_serial) for _ in range(prompt_length)]
    return Sequence(make_request(prompt), adapter, frozenset(), OutputStream())


_serial = itertools.count()


def make_scheduler(
    blocks: int = 100, *, block_size: int = 4, max_sequences: int = 8, prefill_tokens: int = 10
) -> tuple[Scheduler[Handle], BlockPool]:
    pool = BlockPool(blocks, block_size)
    return Scheduler(pool, max_sequences=max_sequences, prefill_tokens=prefill_tokens), pool


def compute(scheduler: Scheduler[Handle], chunks: list[StepChunk[Handle]]) -> None:
    """What a step does to its sequences, with token 0 sampled everywhere."""
    for chunk in chunks:
        samples = chunk.samples
        scheduler.computed(chunk)
        if samples:
            chunk.sequence.tokens.append(0)


def lengths(chunks: list[StepChunk[Handle]]) -> list[int]:
    return [chunk.length for chunk in chunks]


def test_a_long_prompt_is_computed_in_chunks_and_samples_after_the_last() -> None:
    scheduler, _ = make_scheduler()
    scheduler.add(make_sequence(25))
    steps = []
    for _ in range(4):
        chunks = scheduler.schedule()
        steps.append((chunks[0].start, chunks[0].length, chunks[0].samples))
        compute(scheduler, chunks)
    assert steps == [(0, 10, False), (10, 10, False), (20, 5, True), (25, 1, True)]


def test_decoding_goes_on_while_a_long_prompt_is_taken_in() -> None:
    scheduler, _ = make_scheduler()
    scheduler.add(make_sequence(3))
    compute(scheduler, scheduler.schedule())
    scheduler.add(make_sequence(30))
    for expected in ([1, 10], [1, 10], [1, 10], [1, 1]):
        chunks = scheduler.schedule()
        assert lengths(chunks) == expected
        compute(scheduler, chunks)


def test_prompts_share_the_budget_of_a_step() -> None:
    scheduler, _ = make_scheduler()
    for length in (4, 4, 4):
        scheduler.add(make_sequence(length))
    chunks = scheduler.schedule()
    assert lengths(chunks) == [4, 4, 2]
    compute(scheduler, chunks)
    assert lengths(scheduler.schedule()) == [1, 1, 2]


def test_those_of_one_adapter_are_adjacent_and_the_older_first() -> None:
    scheduler, _ = make_scheduler()
    adapters = [Handle("b"), None, Handle("a")]
    sequences = [make_sequence(1, adapter) for adapter in [*adapters, *adapters]]
    for sequence in sequences:
        scheduler.add(sequence)
    places = [sequences.index(chunk.sequence) for chunk in scheduler.schedule()]
    assert places == [1, 4, 2, 5, 0, 3]


def test_no_more_sequences_run_than_allowed_and_the_next_joins_when_one_leaves() -> None:
    scheduler, _ = make_scheduler(max_sequences=2)
    first, second, third = (make_sequence(2) for _ in range(3))
    for sequence in (first, second, third):
        scheduler.add(sequence)
    assert [chunk.sequence for chunk in scheduler.schedule()] == [first, second]
    assert (scheduler.running, scheduler.waiting) == (2, 1)
    scheduler.remove(first)
    assert [chunk.sequence for chunk in scheduler.schedule()] == [second, third]


def test_the_youngest_gives_way_when_blocks_run_out_and_comes_back_first() -> None:
    scheduler, pool = make_scheduler(blocks=4)
    old, young, late = make_sequence(7), make_sequence(7), make_sequence(1)
    scheduler.add(old)
    scheduler.add(young)
    compute(scheduler, scheduler.schedule())  # old whole, three tokens of young
    compute(scheduler, scheduler.schedule())  # old has 9 tokens: a third block is needed
    scheduler.add(late)
    chunks = scheduler.schedule()
    assert [chunk.sequence for chunk in chunks] == [old]
    assert (young.computed, len(young.blocks), scheduler.waiting) == (0, 0, 2)
    compute(scheduler, chunks)
    assert [chunk.sequence for chunk in scheduler.schedule()] == [old]  # late does not overtake young
    scheduler.remove(old)
    chunks = scheduler.schedule()
    assert [(chunk.sequence, chunk.start) for chunk in chunks] == [
        (young, 4),
        (late, 0),
    ]  # its first block is still there
    assert len(young.tokens) == 8  # what it had produced is computed again, not produced again
    assert pool.free == 4 - len(young.blocks) - len(late.blocks)


def test_removing_a_sequence_twice_or_while_it_waits_does_no_harm() -> None:
    scheduler, pool = make_scheduler(max_sequences=1)
    first, second = make_sequence(5), make_sequence(5)
    scheduler.add(first)
    scheduler.add(second)
    scheduler.schedule()
    for sequence in (second, first, first, second):
        scheduler.remove(sequence)
    assert not scheduler.has_work
    assert pool.free == pool.total


@pytest.mark.parametrize("seed", range(8))
def test_whatever_comes_and_goes_everything_ends_and_no_block_is_lost(seed: int) -> None:
    dice = random.Random(seed)
    scheduler, pool = make_scheduler(blocks=12, max_sequences=5, prefill_tokens=dice.randint(1, 20))
    capacity = pool.total * pool.block_size
    targets: dict[Sequence[Handle], int] = {}
    for _ in range(2000):
        if len(targets) < 40 and dice.random() < 0.3:
            prompt = dice.randint(1, capacity - 1)
            sequence = make_sequence(prompt)
            targets[sequence] = dice.randint(prompt + 1, capacity)
            scheduler.add(sequence)
        if targets and dice.random() < 0.05:
            cancelled = dice.choice(list(targets))
            scheduler.remove(cancelled)
            del targets[cancelled]
        chunks = scheduler.schedule()
        assert bool(chunks) == scheduler.has_work
        compute(scheduler, chunks)
        held = [block for sequence in targets for block in sequence.blocks]
        assert len(held) == len(set(held)) == pool.total - pool.free
        for chunk in chunks:
            assert pool.blocks_for(chunk.end) <= len(chunk.sequence.blocks)
            if len(chunk.sequence.tokens) >= targets[chunk.sequence]:
                scheduler.remove(chunk.sequence)
                del targets[chunk.sequence]
    steps = 0
    while scheduler.has_work:
        chunks = scheduler.schedule()
        compute(scheduler, chunks)
        for chunk in chunks:
            if len(chunk.sequence.tokens) >= targets[chunk.sequence]:
                scheduler.remove(chunk.sequence)
        steps += 1
        assert steps < 20_000
    assert pool.free == pool.total


def test_the_null_block_is_never_handed_out() -> None:
    pool = BlockPool(5, 4)
    assert sorted(pool.allocate(5)) == [1, 2, 3, 4, 5]


def test_a_block_cannot_be_freed_twice_nor_taken_when_none_is_left() -> None:
    pool = BlockPool(2, 4)
    taken = pool.allocate(2)
    with pytest.raises(ValueError, match="0 free"):
        pool.allocate(1)
    pool.release(taken)
    with pytest.raises(ValueError, match="not allocated"):
        pool.release(taken[:1])
