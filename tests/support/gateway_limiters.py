"""What the contract of limiters is tried on: every limiter there is, with a hand on its clock."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from services.common.errors import LimitReachedError
from services.gateway.limits.limiter import Lease, Limiter, Limits, Pool, PoolKind
from services.gateway.limits.memory_limiter import MemoryLimiter
from tests.support.gateway_clock import ManualClock

POOL = Pool("acme", "base", PoolKind.LORA)


@dataclass
class Bench:
    limiter: Limiter
    advance: Callable[[float], None]
    """Let seconds pass."""


@asynccontextmanager
async def memory() -> AsyncIterator[Bench]:
    clock = ManualClock()
    yield Bench(MemoryLimiter(clock), clock.advance)


LIMITERS = [memory]


def limits(in_flight: int = 1_000, requests: int = 0, tokens: int = 0) -> Limits:
    return Limits(max_in_flight=in_flight, requests_per_minute=requests, tokens_per_minute=tokens)


async def refused(bench: Bench, bounds: Limits, tokens: int = 1, pool: Pool = POOL) -> LimitReachedError:
    with pytest.raises(LimitReachedError) as caught:
        await bench.limiter.admit(pool, tokens, bounds)
    return caught.value


async def fill(bench: Bench, bounds: Limits, count: int, tokens: int = 1) -> list[Lease]:
    return [await bench.limiter.admit(POOL, tokens, bounds) for _ in range(count)]
