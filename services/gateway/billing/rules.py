"""The public rules of billing, as values and one function."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from services.gateway.billing.money import TokenPrice


class Outcome(Enum):
    """How a request ended."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    """The caller left, or the gateway that served it died."""
    FAILED = "failed"


@dataclass(frozen=True)
class OpenRequest:
    """An admitted request, as its reservation and its usage record describe it."""

    request_id: str
    account_id: str
    key: str
    """Name of the key that it came with."""
    client_request_id: str
    start_time: datetime
    model: str
    base_model: str
    adapter_digest: str
    """Empty for a base model."""
    deployment_uid: str
    """Likewise; names are used again, uids are not."""
    price_id: int
    """The row of the price book that was in force at admission."""
    price: TokenPrice
    """What this request's tokens cost: that row's price, times 3/2 through an adapter."""
    prompt_tokens: int


@dataclass(frozen=True)
class Ending:
    """What a request had come to when it ended."""

    outcome: Outcome
    completion_tokens: int
    cached_tokens: int
    time: datetime
    prompt_computed: bool = False
    """Whether the worker had computed the prompt."""
    worker_id: str = ""
    """That ran it last; empty where none did."""
    first_token_time: datetime | None = None
    finish_reasons: tuple[int, ...] = ()
    """Of each choice, numbered as in inference.proto; empty where it did not complete."""


def charge(price: TokenPrice, prompt_tokens: int, ending: Ending) -> int | None:
    """What a request costs, in pico-USD; None voids its reservation.

    Nothing before the prompt was computed, nothing when the end was our error, and nothing for an answer that ended by
    itself without a token; else the prompt and the tokens produced, whether the answer was completed or cancelled.
    """
    left_behind = ending.prompt_computed and ending.outcome is Outcome.CANCELLED
    if ending.outcome is Outcome.FAILED or not (ending.completion_tokens or left_behind):
        return None
    cached = min(ending.cached_tokens, prompt_tokens)
    return price.cost(prompt_tokens, ending.completion_tokens, cached)
