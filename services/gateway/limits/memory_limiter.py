"""Limits of a single gateway, in memory."""

import uuid
from dataclasses import dataclass, field

from services.common import errors
from services.common.clock import Clock
from services.gateway.limits import gcra, token_bucket
from services.gateway.limits.limiter import LEASE_SECONDS, Lease, Limits, Pool

_MICROSECONDS = 1_000_000
# Nobody knows when a place in a full pool comes free; answers take seconds.
_POOL_RETRY_SECONDS = 1.0


@dataclass
class _Held:
    expires: int
    taken: int
    """Of the token rate, so far."""
    settled: bool = False


@dataclass
class _PoolState:
    arrival_time: int
    bucket: token_bucket.Bucket
    held: dict[str, _Held] = field(default_factory=dict)


class MemoryLimiter:
    """A `Limiter`. No method awaits between reading and writing, so each is atomic on its event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pools: dict[Pool, _PoolState] = {}

    async def admit(self, pool: Pool, tokens: int, limits: Limits) -> Lease:
        """Take a place, a request and `tokens`: all three, or none."""
        per_minute = limits.tokens_per_minute
        if 0 < per_minute < tokens:
            raise errors.AboveLimitError("tokens per minute", tokens, per_minute)
        now = self._now()
        state = self._state(pool, limits, now)
        if len(state.held) >= limits.max_in_flight:
            raise _reached("POOL_FULL", pool, "requests in flight", limits.max_in_flight, _POOL_RETRY_SECONDS)
        arrival_time = state.arrival_time
        if limits.requests_per_minute:
            arrival = gcra.arrive(state.arrival_time, now, limits.requests_per_minute)
            if not arrival.admitted:
                retry_after = arrival.retry_after / _MICROSECONDS
                rate = limits.requests_per_minute
                raise _reached("REQUEST_RATE", pool, "requests per minute", rate, retry_after)
            arrival_time = arrival.arrival_time
        bucket = state.bucket
        if per_minute:
            draw = token_bucket.take(state.bucket, now, per_minute, tokens)
            if not draw.admitted:
                retry_after = draw.retry_after / _MICROSECONDS
                raise _reached("TOKEN_RATE", pool, "tokens per minute", per_minute, retry_after)
            bucket = draw.bucket
        lease = Lease(id=uuid.uuid4().hex, pool=pool, limits=limits, tokens=tokens)
        state.arrival_time = arrival_time
        state.bucket = bucket
        state.held[lease.id] = _Held(expires=now + _LEASE, taken=tokens)
        return lease

    async def renew(self, lease: Lease) -> bool:
        """Keep the lease for LEASE_SECONDS from now; False when it is gone."""
        now = self._now()
        held = self._state(lease.pool, lease.limits, now).held.get(lease.id)
        if held is None:
            return False
        held.expires = now + _LEASE
        return True

    async def debit(self, lease: Lease, tokens: int) -> None:
        """Take up to `tokens` in all for this lease, where less has been taken."""
        now = self._now()
        state = self._state(lease.pool, lease.limits, now)
        held = state.held.get(lease.id)
        if held is not None and not held.settled and held.taken < tokens:
            self._take_in_all(state, held, lease.limits, now, tokens)

    async def settle(self, lease: Lease, tokens: int) -> None:
        """Correct what was taken from the token rate to what was used, once."""
        now = self._now()
        state = self._state(lease.pool, lease.limits, now)
        held = state.held.get(lease.id)
        if held is not None and not held.settled:
            held.settled = True
            self._take_in_all(state, held, lease.limits, now, tokens)

    async def release(self, lease: Lease) -> None:
        """Give the place back."""
        self._state(lease.pool, lease.limits, self._now()).held.pop(lease.id, None)

    def _take_in_all(self, state: _PoolState, held: _Held, limits: Limits, now: int, tokens: int) -> None:
        if limits.tokens_per_minute:
            back = held.taken - tokens
            state.bucket = token_bucket.give_back(state.bucket, now, limits.tokens_per_minute, back)
        held.taken = tokens

    def _state(self, pool: Pool, limits: Limits, now: int) -> _PoolState:
        """The pool's counts without the leases that have expired."""
        state = self._pools.get(pool)
        if state is None:
            state = self._pools[pool] = _PoolState(
                arrival_time=now,
                bucket=token_bucket.full(limits.tokens_per_minute, now),
            )
        for lease_id in [key for key, held in state.held.items() if held.expires <= now]:
            del state.held[lease_id]
        return state

    def _now(self) -> int:
        return int(self._clock.monotonic() * _MICROSECONDS)


_LEASE = int(LEASE_SECONDS * _MICROSECONDS)


def _reached(
    reason: str,
    pool: Pool,
    what: str,
    maximum: int,
    retry_after: float,
) -> errors.LimitReachedError:
    return errors.LimitReachedError(
        reason,
        pool.subject,
        f"{pool.subject} has used its {maximum} {what}",
        maximum=maximum,
        retry_after=retry_after,
    )
