"""What every `Limiter` promises of the token rate: what was taken, produced and given back."""

import random
from collections.abc import AsyncIterator

import pytest

from services.common.errors import AboveLimitError, LimitReachedError
from services.gateway.limits.limiter import Lease
from tests.support.gateway_limiters import LIMITERS, POOL, Bench, fill, limits, refused


@pytest.fixture(params=LIMITERS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with request.param() as made:
        yield made


async def test_the_token_rate_holds_and_says_when_to_come_back(bench: Bench) -> None:
    bounds = limits(tokens=60)
    await fill(bench, bounds, 1, tokens=60)
    error = await refused(bench, bounds, tokens=30)
    assert error.reason == "TOKEN_RATE"
    assert error.retry_after == pytest.approx(30, abs=0.01)
    bench.advance(error.retry_after + 0.001)
    await fill(bench, bounds, 1, tokens=30)


async def test_a_request_above_what_the_bucket_can_hold_is_told_so(bench: Bench) -> None:
    with pytest.raises(AboveLimitError) as caught:
        await bench.limiter.admit(POOL, 61, limits(tokens=60))
    assert caught.value.metadata == {"limit": "tokens per minute", "requested": "61", "maximum": "60"}


async def test_settling_gives_back_what_was_not_used(bench: Bench) -> None:
    bounds = limits(tokens=60)
    (lease,) = await fill(bench, bounds, 1, tokens=60)
    await bench.limiter.settle(lease, 20)
    await refused(bench, bounds, tokens=41)
    await fill(bench, bounds, 1, tokens=40)


async def test_settling_twice_gives_back_once(bench: Bench) -> None:
    bounds = limits(tokens=60)
    (lease,) = await fill(bench, bounds, 1, tokens=60)
    await bench.limiter.settle(lease, 50)
    await bench.limiter.settle(lease, 0)
    await refused(bench, bounds, tokens=11)


async def test_settling_at_more_than_was_taken_leaves_a_debt(bench: Bench) -> None:
    bounds = limits(tokens=60)
    (lease,) = await fill(bench, bounds, 1, tokens=30)
    await bench.limiter.settle(lease, 90)
    assert (await refused(bench, bounds)).retry_after == pytest.approx(31, abs=0.01)


async def test_settling_after_release_does_nothing(bench: Bench) -> None:
    bounds = limits(tokens=60)
    (lease,) = await fill(bench, bounds, 1, tokens=60)
    await bench.limiter.release(lease)
    await bench.limiter.settle(lease, 0)
    await refused(bench, bounds)


async def test_what_is_produced_beyond_admission_is_debited_at_once_and_only_once(bench: Bench) -> None:
    bounds = limits(tokens=100)
    (lease,) = await fill(bench, bounds, 1, tokens=20)
    for _ in range(3):
        await bench.limiter.debit(lease, 90)
    # Less than before is no correction: that is what settling is for.
    await bench.limiter.debit(lease, 50)
    assert (await refused(bench, bounds, 11)).reason == "TOKEN_RATE"
    other = await bench.limiter.admit(POOL, 10, bounds)
    await bench.limiter.settle(lease, 60)
    await fill(bench, bounds, 1, tokens=30)
    await refused(bench, bounds, 1)
    # After its end nothing is debited any more.
    for gone in (lease, other):
        await bench.limiter.release(gone)
        await bench.limiter.debit(gone, 1_000)
    bench.advance(60)
    await fill(bench, bounds, 1, tokens=100)


async def test_a_bucket_below_zero_lets_nothing_in_until_it_has_filled(bench: Bench) -> None:
    bounds = limits(tokens=60)
    (lease,) = await fill(bench, bounds, 1, tokens=60)
    await bench.limiter.debit(lease, 180)
    error = await refused(bench, bounds, 1)
    assert error.retry_after == pytest.approx(121, abs=0.01)
    for _ in range(24):
        bench.advance(5)
        assert await bench.limiter.renew(lease)
    await refused(bench, bounds, 1)
    bench.advance(1.001)
    await fill(bench, bounds, 1)


@pytest.mark.parametrize("seed", range(8))
async def test_over_any_time_no_more_tokens_pass_than_the_rate_promises(bench: Bench, seed: int) -> None:
    """Field report F15: twenty at once with max_tokens of 8,000 at 10,000 a minute, which ask again at once."""
    generator = random.Random(seed)
    bounds, rate, reserved = limits(in_flight=20, tokens=10_000), 10_000, 1_034
    running: dict[Lease, tuple[int, int]] = {}  # produced so far, and in the end
    passed, beyond, minutes = 0, 0, 0.0
    for _ in range(600):
        while len(running) < 20:
            try:
                lease = await bench.limiter.admit(POOL, reserved, bounds)
            except LimitReachedError:
                break
            beyond = 0
            running[lease] = (10, generator.choice((50, 500, 1_034, 8_010)))
            passed += 10
        bench.advance(2.0)
        minutes += 2 / 60
        for lease, (used, end) in list(running.items()):
            await bench.limiter.renew(lease)
            now = min(end, used + generator.randrange(200))
            passed += now - used
            beyond += max(now, reserved) - max(used, reserved)
            running[lease] = (now, end)
            await bench.limiter.debit(lease, now)
            if now == end:
                await bench.limiter.settle(lease, now)
                await bench.limiter.release(lease)
                del running[lease]
        assert passed <= rate * (minutes + 1) + beyond
    # And the rate is made use of: what is promised is not kept by refusing.
    assert passed >= 0.8 * rate * minutes
