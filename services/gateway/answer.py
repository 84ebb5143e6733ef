"""What comes back for a request: what a worker says about it, event by event, and what it came to in the end."""

from dataclasses import dataclass
from enum import IntEnum

from services.gateway.billing.money import TokenPrice


class FinishReason(IntEnum):
    """Why a choice ended, numbered as in inference.proto.

    The list grows, and workers may know more of it than this gateway: a number that is not here passes as it is.
    """

    UNSPECIFIED = 0
    STOP = 1
    LENGTH = 2
    TOOL_CALLS = 3


def finish_reason(number: int) -> int:
    """A worker's number, as a FinishReason where it is a known one."""
    try:
        return FinishReason(number)
    except ValueError:
        return number


@dataclass(frozen=True)
class TopLogprob:
    """One of the likeliest tokens at a place."""

    token_id: int
    logprob: float
    text: str
    data: bytes


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its natural logarithm of probability, and the likeliest tokens in its place."""

    token_id: int
    logprob: float
    text: str
    """The token by itself; U+FFFD where it is part of a character."""
    data: bytes
    """The bytes that it stands for."""
    top: tuple[TopLogprob, ...]


@dataclass(frozen=True)
class Started:
    """The prompt is computed: from here on it is charged, however the request ends."""

    cached_tokens: int


@dataclass(frozen=True)
class Chunk:
    """What was produced since the last chunk of the same choice."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Choice:
    """How one choice ended."""

    index: int
    finish_reason: int
    """A FinishReason, or a number that is newer."""
    stop: str


@dataclass(frozen=True)
class Summary:
    """A worker's last word on a request."""

    choices: tuple[Choice, ...]
    cached_tokens: int
    completion_tokens: int
    engine: str = ""
    mode: str = ""
    """How it was computed, in words that only compare."""


Event = Started | Chunk | Summary
"""What a worker says: started, chunks, then the summary."""


@dataclass(frozen=True)
class Answer:
    """What a request came to, for its completion message."""

    request_id: str
    client_request_id: str
    model: str
    version_digest: str
    """Of the adapter version that answered; empty for a base."""
    choices: tuple[Choice, ...]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    price: TokenPrice
    total: int
    """Pico-USD."""
    engine: str
    mode: str
    first_chunk_seconds: float | None
    """From the arrival of the request; None where there was no chunk."""
    total_seconds: float
