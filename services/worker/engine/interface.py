"""The seam between a worker and what computes: our own today, vLLM where one machine is too small.

Everything here is plain Python. An engine owns its device and a thread or process of its own; its methods
are called from the worker's event loop and never block it.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Sampling:
    """How one sequence's tokens are chosen; fields and ranges as in sampling.proto, checked and complete."""

    max_tokens: int
    """Of the whole output, what was produced elsewhere included."""
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    """How many alternatives to report; None reports no log probabilities at all."""
    ignore_eos: bool = False


@dataclass(frozen=True)
class EngineRequest:
    """One sequence to run."""

    request_id: str
    account_id: str
    """Cached prefixes are never shared across accounts."""
    prompt: Sequence[int]
    """Token ids; at least one."""
    sampling: Sampling
    adapter: str | None = None
    """Content digest of a loaded adapter; None runs the base."""
    account_weight: float = 1.0
    """The account's share of the engine against others'; above 0."""
    produced: Sequence[int] = ()
    """What of its output another engine gave before; fewer than max_tokens. The sequence goes on behind it as that engine
    would have, and yields only what is new."""


@dataclass(frozen=True)
class TokenLogprob:
    """Natural logarithms of probabilities under the model's own distribution."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """(token id, logprob) of the likeliest tokens, likeliest first."""


class Finish(Enum):
    """Why a sequence ended. Stop strings are the worker's business: it cancels."""

    STOP = auto()
    LENGTH = auto()


@dataclass(frozen=True)
class EngineOutput:
    """What one or more steps produced for one sequence. The last one carries `finish`."""

    token_ids: tuple[int, ...]
    """A stop token that ended the sequence is not among them."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each of token_ids, or none."""
    cached_tokens: int = 0
    """How many prompt tokens came from the prefix cache."""
    finish: Finish | None = None


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter on local disk, fetched and checked."""

    digest: str
    folder: Path
    """Holds adapter_config.json and adapter_model.safetensors, and nothing else that is read."""


@dataclass(kw_only=True)
class StepStats:
    """Counts of an engine's steps, as of the last one. What ends in `_total` only grows."""

    running: int = 0
    waiting: int = 0
    prompt_tokens_total: int = 0
    completion_tokens_total: int = 0
    cached_tokens_total: int = 0
    """Of the prompt tokens, those found in the prefix cache."""
    admitted_total: int = 0
    """Sequences that have begun to run."""
    queue_seconds_total: float = 0.0
    """How long those waited for their first step."""
    steps_total: int = 0
    step_sequences_total: int = 0
    """Sequences over all steps; over `steps_total` it is the mean batch."""
    step_seconds_total: float = 0.0
    failed_steps_total: int = 0
    preemptions_total: int = 0
    kv_blocks: int = 0
    kv_blocks_held: int = 0
    """By sequences that run."""
    kv_blocks_cached: int = 0
    """That a prefix may be found in, held ones among them."""


@dataclass(kw_only=True)
class EngineStats(StepStats):
    """A moment of an engine."""

    adapters: Mapping[str, int] = field(default_factory=dict)
    """Pins by digest of each resident adapter."""
    adapter_bytes: Mapping[str, int] = field(default_factory=dict)
    adapter_slots: int = 0
    """0: as many as fit in memory."""
    adapter_requests_total: int = 0
    adapter_hits_total: int = 0
    """Of the requests, those whose adapter was resident or on its way."""
    adapter_loads_total: int = 0
    adapter_load_seconds_total: float = 0.0
    host_cache_hits_total: int = 0
    """Of the loads, those that did not touch the disk."""


@dataclass(frozen=True)
class EngineCapabilities:
    """What an engine applies exactly; what is not named here it never gets."""

    engine: str
    mode: str
    """How it multiplies, in words that only compare: two answers to one seeded request are equal where engine and
    mode are."""
    adapter_variants: tuple[str, ...]
    """By the names of PEFT's settings, sorted."""
    max_lora_rank: int
    dtype: str
    """Of weights and activations: bfloat16, float32."""


class EngineStoppedError(Exception):
    """The engine has stopped or failed; the sequence did not end by itself."""


class NotFiniteError(EngineStoppedError):
    """The model gave numbers for this sequence that are not finite; others are not touched by it."""


class Engine(Protocol):
    """Runs sequences of one base model on one device, each with an adapter or without."""

    @property
    def context_length(self) -> int:
        """The longest prompt and output together, in tokens."""
        ...

    @property
    def capabilities(self) -> EngineCapabilities:
        """What it applies, and how it computes."""
        ...

    def adapter(self, files: AdapterFiles) -> AbstractAsyncContextManager[None]:
        """Hold an adapter resident while the context lasts.

        Loads it first where needed: once for all who ask at the same time, without holding up running
        sequences, evicting the least recently used one that nobody holds. Waits for a slot when all are held.
        Raises services.common.errors.InvalidFieldError for files that the engine cannot apply exactly.
        """
        ...

    def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput]:
        """Run a sequence; its adapter must be held. Closing the iterator ends it and frees what it has.

        Never waits for the consumer: what is not yet taken is joined into the next output.
        Raises EngineStoppedError when the engine cannot go on with it.
        """
        ...

    def stats(self) -> EngineStats:
        """Counts as of the last step."""
        ...

    @property
    def failed(self) -> "asyncio.Future[None]":
        """Gets EngineStoppedError as its exception once the engine can run nothing more; never a result."""
        ...

    async def stop(self) -> None:
        """End what runs with EngineStoppedError, and free the device."""
        ...
