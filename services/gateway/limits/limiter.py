"""What bounds an account's traffic, and the seam behind which it is counted: in memory or in Redis."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

LEASE_SECONDS = 15.0
"""A lease that is not renewed for so long is gone."""
RENEW_SECONDS = 5.0
"""How often a holder renews."""


class PoolKind(Enum):
    """Traffic to a base model itself and traffic through its adapters are counted apart."""

    BASE = "base"
    LORA = "lora"


@dataclass(frozen=True)
class Pool:
    """What is counted together: an account on one base model, over all its adapters there."""

    account: str
    base_model: str
    kind: PoolKind

    @property
    def subject(self) -> str:
        """How errors name the pool."""
        return f"accounts/{self.account}/base_models/{self.base_model}/{self.kind.value}"


@dataclass(frozen=True)
class Limits:
    """The bounds of one pool. The rates hold one minute's worth, all of which may come at once."""

    max_in_flight: int
    requests_per_minute: int
    """0 sets no bound."""
    tokens_per_minute: int
    """0 sets no bound."""


@dataclass(frozen=True)
class Lease:
    """One place in a pool, held for one request."""

    id: str
    pool: Pool
    limits: Limits
    tokens: int
    """Taken from the token rate at admission."""


class Limiter(Protocol):
    """Counts the traffic of all gateways that share it.

    What the token rate promises: a request is let in when what it takes at admission is there. What it produces beyond
    that is debited as it is produced, and may bring the bucket below zero: an answer that has begun is neither cut nor
    slowed. Nothing more is let in until the bucket has filled again, so that over any time from a full bucket on no
    more passes than

        rate x minutes + one minute's tokens + what has been produced beyond admission since a request was last let in,

    the last by the answers that were in flight then: at most the pool's places times their max_tokens.
    """

    async def admit(self, pool: Pool, tokens: int, limits: Limits) -> Lease:
        """Take a place in the pool, one request and `tokens` of the rates: all three, or none.

        Raises AboveLimitError when `tokens` is more than the rate can ever hold, else LimitReachedError with
        reason POOL_FULL, REQUEST_RATE or TOKEN_RATE.
        """
        ...

    async def renew(self, lease: Lease) -> bool:
        """Keep the lease for LEASE_SECONDS from now. False when it had expired or been released."""
        ...

    async def debit(self, lease: Lease, tokens: int) -> None:
        """Take up to `tokens` in all for this lease, where less has been taken; below zero if need be.

        Only while it is held and not settled.
        """
        ...

    async def settle(self, lease: Lease, tokens: int) -> None:
        """Correct what was taken from the token rate to what was used, which may be more.

        Once for each lease, while it is held: later calls, and those after expiry or release, do nothing.
        """
        ...

    async def release(self, lease: Lease) -> None:
        """Give the place back. Does nothing when it has been given back or has expired."""
        ...
