"""What generation gives back. Deployments, accounts and bills come as the messages of their protos."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from loramux.inference.v1 import inference_pb2

PICO_USD = Decimal("1e-12")
"""One pico-USD in USD."""


class FinishReason(StrEnum):
    """Why a choice ended."""

    UNSPECIFIED = "unspecified"
    """A reason that this version of the SDK does not know."""
    STOP = "stop"
    """The model's end-of-text token, a stop string or a stop token id."""
    LENGTH = "length"
    """max_tokens reached."""
    TOOL_CALLS = "tool_calls"
    """The model called tools and waits for their answers."""


@dataclass(frozen=True)
class TopLogprob:
    """One of the likeliest tokens at a position."""

    token_id: int
    logprob: float
    text: str = ""
    data: bytes = b""


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a produced token was, before temperature and filters."""

    token_id: int
    logprob: float
    """Natural logarithm."""
    top: tuple[TopLogprob, ...]
    """The likeliest alternatives, likeliest first."""
    text: str = ""
    """The token by itself; U+FFFD where it is part of a character."""
    data: bytes = b""
    """The bytes that it stands for."""


@dataclass(frozen=True)
class Chunk:
    """What was produced since the last chunk of the same choice."""

    index: int
    """Which choice this belongs to."""
    text: str
    """Whole characters only; empty while the tokens so far end inside one, or may begin a stop string."""
    token_ids: tuple[int, ...]
    """In order. Their text may arrive with a later chunk."""
    logprobs: tuple[TokenLogprob, ...]
    """One for each of token_ids where logprobs were asked for, else empty."""


@dataclass(frozen=True)
class Usage:
    """Tokens of a request."""

    prompt_tokens: int
    cached_tokens: int
    """Of prompt_tokens, how many were found in the prefix cache."""
    completion_tokens: int


@dataclass(frozen=True)
class Cost:
    """Money in pico-USD (1e-12 USD), whole numbers throughout."""

    prompt_pico_usd: int
    """Of one token, as the next two."""
    cached_prompt_pico_usd: int
    """Of one that was found in the prefix cache."""
    completion_pico_usd: int
    total_pico_usd: int

    @property
    def total_usd(self) -> Decimal:
        """The total in USD, exactly."""
        return self.total_pico_usd * PICO_USD


@dataclass(frozen=True)
class Choice:
    """How one choice ended."""

    index: int
    finish_reason: FinishReason
    stop: str
    """The stop string that ended it; empty where none did."""
    finish_reason_number: int = 0
    """As it came, for reasons that this version of the SDK does not know."""


@dataclass(frozen=True)
class Completion:
    """The end of a stream that ended well."""

    request_id: str
    """The server's id of the request; the key of its usage record."""
    model: str
    choices: tuple[Choice, ...]
    """In order of index."""
    usage: Usage
    cost: Cost
    client_request_id: str = ""
    """The caller's own."""
    version_digest: str = ""
    """Of the adapter version that answered; empty for a base."""
    engine: str = ""
    mode: str = ""
    """What computed it: two answers to one seeded request are equal where engine and mode are."""
    first_chunk_seconds: float | None = None
    """From the request's arrival at the gateway until its first chunk; None where there was none."""
    total_seconds: float = 0.0

    @property
    def finish_reason(self) -> FinishReason:
        """Of the first choice."""
        return self.choices[0].finish_reason if self.choices else FinishReason.UNSPECIFIED


_FINISH_REASONS = {
    inference_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    inference_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    inference_pb2.FINISH_REASON_TOOL_CALLS: FinishReason.TOOL_CALLS,
}


def chunk_of(message: inference_pb2.Chunk) -> Chunk:
    """From the wire."""
    return Chunk(
        index=message.index,
        text=message.text,
        token_ids=tuple(message.token_ids),
        logprobs=tuple(
            TokenLogprob(
                token_id=one.token_id,
                logprob=one.logprob,
                top=tuple(
                    TopLogprob(other.token_id, other.logprob, other.text, other.bytes) for other in one.top
                ),
                text=one.text,
                data=one.bytes,
            )
            for one in message.logprobs
        ),
    )


def completion_of(message: inference_pb2.Completion) -> Completion:
    """From the wire."""
    return Completion(
        request_id=message.request_id,
        model=message.model,
        choices=tuple(
            Choice(
                index=one.index,
                finish_reason=_FINISH_REASONS.get(one.finish_reason, FinishReason.UNSPECIFIED),
                stop=one.stop,
                finish_reason_number=int(one.finish_reason),
            )
            for one in message.choices
        ),
        usage=Usage(
            prompt_tokens=message.usage.prompt_tokens,
            cached_tokens=message.usage.cached_tokens,
            completion_tokens=message.usage.completion_tokens,
        ),
        cost=Cost(
            prompt_pico_usd=message.cost.price.prompt_pico_usd,
            cached_prompt_pico_usd=message.cost.price.cached_prompt_pico_usd,
            completion_pico_usd=message.cost.price.completion_pico_usd,
            total_pico_usd=message.cost.total_pico_usd,
        ),
        client_request_id=message.client_request_id,
        version_digest=message.version_digest,
        engine=message.fingerprint.engine,
        mode=message.fingerprint.mode,
        first_chunk_seconds=message.timings.first_chunk.ToNanoseconds() / 1e9
        if message.timings.HasField("first_chunk")
        else None,
        total_seconds=message.timings.total.ToNanoseconds() / 1e9,
    )
