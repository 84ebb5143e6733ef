"""What every `Limiter` keeps to, whatever counts behind it."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from services.common.errors import AboveLimitError, LimitReachedError
from services.gateway.limits.limiter import LEASE_SECONDS, RENEW_SECONDS, Lease, Limits, Pool, PoolKind
from tests.support.gateway_limiters import LIMITERS, POOL, Bench, fill, limits, refused

OTHERS = [
    Pool("acme", "base", PoolKind.BASE),
    Pool("acme", "other-base", PoolKind.LORA),
    Pool("rival", "base", PoolKind.LORA),
]


@pytest.fixture(params=LIMITERS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with request.param() as made:
        yield made


async def test_the_pool_takes_n_and_refuses_one_more(bench: Bench) -> None:
    bounds = limits(in_flight=3)
    await fill(bench, bounds, 3)
    error = await refused(bench, bounds)
    assert error.reason == "POOL_FULL"
    assert error.retry_after > 0
    assert error.metadata == {"subject": "accounts/acme/base_models/base/lora", "maximum": "3"}


@pytest.mark.parametrize("other", OTHERS)
async def test_pools_of_other_accounts_bases_and_kinds_are_apart(bench: Bench, other: Pool) -> None:
    bounds = limits(in_flight=1, requests=1, tokens=10)
    await fill(bench, bounds, 1, tokens=10)
    await bench.limiter.admit(other, 10, bounds)


async def test_a_released_place_is_free_at_once(bench: Bench) -> None:
    bounds = limits(in_flight=1)
    (lease,) = await fill(bench, bounds, 1)
    await bench.limiter.release(lease)
    await fill(bench, bounds, 1)


async def test_releasing_twice_frees_one_place(bench: Bench) -> None:
    bounds = limits(in_flight=2)
    first, _ = await fill(bench, bounds, 2)
    await bench.limiter.release(first)
    await bench.limiter.release(first)
    await fill(bench, bounds, 1)
    await refused(bench, bounds)


async def test_a_lease_that_is_not_renewed_expires(bench: Bench) -> None:
    bounds = limits(in_flight=1)
    (lease,) = await fill(bench, bounds, 1)
    bench.advance(LEASE_SECONDS - 0.1)
    await refused(bench, bounds)
    bench.advance(0.2)
    await fill(bench, bounds, 1)
    assert not await bench.limiter.renew(lease)
    await refused(bench, bounds)


async def test_a_lease_that_is_renewed_stays(bench: Bench) -> None:
    bounds = limits(in_flight=1)
    (lease,) = await fill(bench, bounds, 1)
    for _ in range(10):
        bench.advance(RENEW_SECONDS)
        assert await bench.limiter.renew(lease)
    await refused(bench, bounds)


async def test_other_traffic_does_not_keep_a_dead_lease_alive(bench: Bench) -> None:
    bounds = limits(in_flight=2)
    _dead, alive = await fill(bench, bounds, 2)
    for _ in range(4):
        bench.advance(RENEW_SECONDS)
        await bench.limiter.renew(alive)
    await fill(bench, bounds, 1)
    await refused(bench, bounds)


async def test_a_released_lease_cannot_be_renewed(bench: Bench) -> None:
    bounds = limits(in_flight=1)
    (lease,) = await fill(bench, bounds, 1)
    await bench.limiter.release(lease)
    assert not await bench.limiter.renew(lease)
    await fill(bench, bounds, 1)


async def test_releasing_an_expired_lease_frees_nobody_elses_place(bench: Bench) -> None:
    bounds = limits(in_flight=1)
    (expired,) = await fill(bench, bounds, 1)
    bench.advance(LEASE_SECONDS + 1)
    await fill(bench, bounds, 1)
    await bench.limiter.release(expired)
    await refused(bench, bounds)


async def test_the_request_rate_holds_and_says_when_to_come_back(bench: Bench) -> None:
    bounds = limits(requests=3)
    await fill(bench, bounds, 3)
    error = await refused(bench, bounds)
    assert error.reason == "REQUEST_RATE"
    assert error.retry_after == pytest.approx(20, abs=0.01)
    bench.advance(error.retry_after + 0.001)
    await fill(bench, bounds, 1)


async def test_without_rates_nothing_but_the_pool_counts(bench: Bench) -> None:
    await fill(bench, limits(in_flight=50), 50, tokens=10**9)


@pytest.mark.parametrize(
    ("bounds", "first", "tokens", "reason"),
    [
        (limits(in_flight=1, requests=2, tokens=100), 10, 10, "POOL_FULL"),
        (limits(in_flight=9, requests=1, tokens=100), 10, 10, "REQUEST_RATE"),
        (limits(in_flight=9, requests=2, tokens=100), 95, 10, "TOKEN_RATE"),
    ],
)
async def test_a_refused_request_takes_nothing_from_any_limit(
    bench: Bench, bounds: Limits, first: int, tokens: int, reason: str
) -> None:
    """After a hundred refusals, exactly what was left before them is still there."""
    (lease,) = await fill(bench, bounds, 1, tokens=first)
    for _ in range(100):
        assert (await refused(bench, bounds, tokens)).reason == reason
    generous = limits(
        in_flight=bounds.max_in_flight + 1,
        requests=bounds.requests_per_minute,
        tokens=bounds.tokens_per_minute,
    )
    match reason:
        case "POOL_FULL":
            await bench.limiter.admit(POOL, 90, generous)
            assert (await refused(bench, generous, 1)).reason == "POOL_FULL"
        case "REQUEST_RATE":
            bench.advance(60)
            await bench.limiter.renew(lease)
            await bench.limiter.admit(POOL, 100, bounds)
        case _:
            await bench.limiter.admit(POOL, 5, bounds)
            assert (await refused(bench, bounds, 1)).reason == "REQUEST_RATE"


async def test_a_request_above_the_limit_takes_nothing_either(bench: Bench) -> None:
    bounds = limits(in_flight=1, requests=1, tokens=10)
    with pytest.raises(AboveLimitError):
        await bench.limiter.admit(POOL, 11, bounds)
    await bench.limiter.admit(POOL, 10, bounds)


@pytest.mark.parametrize("seed", range(8))
async def test_under_any_interleaving_never_more_than_n_are_in_flight_and_nothing_leaks(
    bench: Bench, seed: int
) -> None:
    generator = random.Random(seed)
    bounds = limits(in_flight=generator.randint(1, 12), tokens=10_000)
    in_flight, most, admitted = 0, 0, 0

    async def one() -> None:
        nonlocal in_flight, most, admitted
        for _ in range(generator.randrange(4)):
            await asyncio.sleep(0)
        try:
            lease = await bench.limiter.admit(POOL, 5, bounds)
        except LimitReachedError:
            return
        in_flight, admitted = in_flight + 1, admitted + 1
        most = max(most, in_flight)
        try:
            for _ in range(generator.randrange(12)):
                await asyncio.sleep(0)
                if generator.random() < 0.2:
                    assert await bench.limiter.renew(lease)
        finally:
            in_flight -= 1
            await bench.limiter.settle(lease, 0)
            for _ in range(generator.randint(1, 2)):
                await bench.limiter.release(lease)

    tasks = [asyncio.create_task(one()) for _ in range(300)]
    for task in generator.sample(tasks, 100):
        await asyncio.sleep(0)
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert not [one for one in outcomes if isinstance(one, Exception)]
    assert most <= bounds.max_in_flight
    assert admitted >= bounds.max_in_flight
    await fill(bench, bounds, bounds.max_in_flight, tokens=10_000 // bounds.max_in_flight)
    await refused(bench, bounds)


async def test_of_many_at_once_exactly_n_get_in(bench: Bench) -> None:
    bounds = limits(in_flight=10)
    tries = [bench.limiter.admit(POOL, 1, bounds) for _ in range(100)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(one, Lease) for one in outcomes) == 10
    assert sum(isinstance(one, LimitReachedError) for one in outcomes) == 90
