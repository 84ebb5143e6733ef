"""A prefix that was computed is found again, by its own account and adapter, until its place is needed."""

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.worker.engine.interface import EngineRequest, Sampling
from services.worker.engine.local.output_streams import OutputStream
from services.worker.engine.local.schedule.block_pool import BlockPool
from services.worker.engine.local.schedule.scheduler import Scheduler
from services.worker.engine.local.schedule.sequence import Sequence
from tests.support.engine import answer, running_engine
from tests.support.models import write_tiny_base

SIZE = 4


@dataclass(frozen=True)
class Handle:
    """An adapter, as far as scheduling looks at it."""

    digest: str


def make_sequence(tokens: list[int], *, account: str = "a", adapter: str = "") -> Sequence[Handle]:
    request = EngineRequest("r", account, tokens, Sampling(max_tokens=100))
    loaded = Handle(adapter) if adapter else None
    return Sequence(request, loaded, frozenset(), OutputStream())


def make_scheduler(blocks: int = 20, *, prefix_cache: bool = True) -> tuple[Scheduler[Handle], BlockPool]:
    pool = BlockPool(blocks, SIZE, prefix_cache=prefix_cache)
    return Scheduler(pool, max_sequences=8, prefill_tokens=100), pool


def run_to_end(scheduler: Scheduler[Handle], sequence: Sequence[Handle]) -> int:
    """Compute a sequence's prompt, end it, and return how much of it was cached."""
    scheduler.add(sequence)
    for chunk in scheduler.schedule():
        scheduler.computed(chunk)
    scheduler.remove(sequence)
    return sequence.cached_tokens


def test_a_prompt_that_begins_as_an_earlier_one_is_computed_from_where_they_part() -> None:
    scheduler, pool = make_scheduler()
    first = list(range(11))
    assert run_to_end(scheduler, make_sequence(first)) == 0
    assert pool.free == pool.total
    second = make_sequence([*first[:9], 99, 98, 97])
    scheduler.add(second)
    (chunk,) = scheduler.schedule()
    assert (chunk.start, chunk.length, second.cached_tokens) == (8, 4, 8)


def test_the_last_token_is_always_computed() -> None:
    scheduler, _ = make_scheduler()
    run_to_end(scheduler, make_sequence(list(range(8))))
    assert run_to_end(scheduler, make_sequence(list(range(8)))) == 4


def test_nothing_is_shared_across_accounts_or_adapters_or_with_the_base() -> None:
    scheduler, _ = make_scheduler()
    tokens = list(range(12))
    owners = [("a", ""), ("b", ""), ("a", "one"), ("a", "two"), ("b", "one")]
    for account, adapter in owners:
        assert run_to_end(scheduler, make_sequence(tokens, account=account, adapter=adapter)) == 0
    for account, adapter in owners:
        assert run_to_end(scheduler, make_sequence(tokens, account=account, adapter=adapter)) == 8


def test_two_that_run_at_once_share_blocks_which_outlive_the_first() -> None:
    scheduler, pool = make_scheduler()
    tokens = list(range(9))
    run_to_end(scheduler, make_sequence(tokens))
    one, two = make_sequence([*tokens, 1]), make_sequence([*tokens, 2])
    scheduler.add(one)
    scheduler.add(two)
    for chunk in scheduler.schedule():
        scheduler.computed(chunk)
    assert one.blocks[:2] == two.blocks[:2]
    assert pool.total - pool.free == 4
    scheduler.remove(one)
    assert pool.total - pool.free == 3
    assert two.blocks[0] not in pool.allocate(pool.free)


def test_the_least_recently_used_goes_first_and_its_end_before_its_beginning() -> None:
    scheduler, pool = make_scheduler(blocks=6)
    old, new = list(range(12)), list(range(100, 108))
    run_to_end(scheduler, make_sequence(old))  # three full blocks
    run_to_end(scheduler, make_sequence(new))  # two
    assert pool.cached == 5
    pool.release(pool.allocate(2))  # one was empty; one of old's goes
    assert run_to_end(scheduler, make_sequence([*old, 5])) == 8
    assert run_to_end(scheduler, make_sequence([*new, 5])) == 8


def test_an_account_of_ever_new_prompts_evicts_its_own_and_not_what_others_keep() -> None:
    scheduler, pool = make_scheduler(blocks=24)
    kept = list(range(8 * SIZE))  # a third of all: less than an equal share
    run_to_end(scheduler, make_sequence(kept, account="modest"))
    for number in range(100):
        prompt = [1_000 + number, *range(6 * SIZE)]
        assert run_to_end(scheduler, make_sequence(prompt, account="flood")) == 0
    assert pool.free == pool.total
    assert run_to_end(scheduler, make_sequence([*kept, 5], account="modest")) == len(kept)


@pytest.mark.parametrize("accounts", [2, 3, 5])
def test_accounts_that_all_want_more_keep_as_much_as_one_another(accounts: int) -> None:
    scheduler, pool = make_scheduler(blocks=60)
    dice = random.Random(accounts)
    # Of unequal appetites: the first asks as often as all others together.
    names = ["a0"] * (accounts - 1) + [f"a{number}" for number in range(1, accounts)]
    for number in range(500):
        prompt = [number, *range(dice.randint(SIZE, 3 * SIZE))]
        run_to_end(scheduler, make_sequence(prompt, account=dice.choice(names)))
    kept = Counter(cached.account for cached in pool._by_block.values())
    assert sum(kept.values()) >= pool.total - 4  # all but what the last one needed
    assert max(kept.values()) - min(kept.values()) <= 4
    assert len(kept) == accounts


def test_what_is_forgotten_is_not_found() -> None:
    scheduler, pool = make_scheduler()
    tokens = list(range(9))
    broken = make_sequence(tokens)
    scheduler.add(broken)
    scheduler.computed(scheduler.schedule()[0])
    scheduler.forget(broken)
    scheduler.remove(broken)
    assert run_to_end(scheduler, make_sequence(tokens)) == 0
    assert pool.free == pool.total


def test_a_cache_that_is_off_keeps_nothing() -> None:
    scheduler, pool = make_scheduler(prefix_cache=False)
    for _ in range(2):
        assert run_to_end(scheduler, make_sequence(list(range(12)))) == 0
    assert pool.cached == 0


def test_a_preempted_sequence_takes_its_own_blocks_over_but_reports_none_of_them() -> None:
    scheduler, _ = make_scheduler(blocks=4)
    old, young = make_sequence(list(range(7))), make_sequence(list(range(50, 57)))
    for sequence in (old, young):
        scheduler.add(sequence)
    for _ in range(3):
        for chunk in scheduler.schedule():
            scheduler.computed(chunk)
            chunk.sequence.tokens.append(0)
    assert young not in scheduler.sequences()[:1]
    assert not young.blocks
    scheduler.remove(old)
    (chunk,) = scheduler.schedule()
    assert (chunk.sequence, chunk.start, young.cached_tokens) == (young, 4, 0)


@pytest.mark.parametrize("seed", range(6))
def test_however_prefixes_are_shared_every_block_is_held_as_often_as_it_is_used(seed: int) -> None:
    dice = random.Random(seed)
    scheduler, pool = make_scheduler(blocks=12)
    held: dict[Sequence[Handle], int] = {}
    for _ in range(2000):
        if len(held) < 12 and dice.random() < 0.4:
            # Few distinct tokens: prefixes meet all the time.
            sequence = make_sequence(
                [dice.randint(0, 1) for _ in range(dice.randint(1, 30))], account=dice.choice("ab")
            )
            held[sequence] = len(sequence.tokens) + dice.randint(1, 10)
            scheduler.add(sequence)
        if held and dice.random() < 0.1:
            gone = dice.choice(list(held))
            scheduler.remove(gone)
            del held[gone]
        for chunk in scheduler.schedule():
            samples = chunk.samples
            scheduler.computed(chunk)
            if samples:
                chunk.sequence.tokens.append(dice.randint(0, 1))
            if len(chunk.sequence.tokens) >= held[chunk.sequence]:
                scheduler.remove(chunk.sequence)
                del held[chunk.sequence]
        uses = Counter(block for sequence in held for block in sequence.blocks)
        assert pool.total - pool.free == len(uses)
        assert uses == {block: count for block, count in enumerate(pool._holders) if count}
        for sequence in held:  # a shared block holds the very tokens
            for place, cached in enumerate(sequence.published):
                assert list(cached.key[1]) == sequence.tokens[place * SIZE : (place + 1) * SIZE]
    for sequence in list(held):
        scheduler.remove(sequence)
    assert pool.free == pool.total


@pytest.mark.parametrize("kernels", ["auto", "off"])
async def test_an_answer_from_the_cache_is_the_same_answer(tmp_path: Path, kernels: str) -> None:
    base = write_tiny_base(tmp_path / "base")
    prompt = [3 + place % 300 for place in range(50)]
    async with running_engine(base, kernels=kernels) as engine:
        first = await answer(engine, prompt)
        again = await answer(engine, prompt)
        longer = await answer(engine, [*prompt, *first.token_ids[:8]], max_tokens=12)
    assert (first.cached_tokens, again.cached_tokens, longer.cached_tokens) == (0, 48, 48)
    assert again.token_ids == first.token_ids
    assert longer.token_ids == first.token_ids[8:]
