"""A sequence, with all the state that it has while it runs."""

import time
from array import array
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from services.worker.engine.interface import EngineRequest
from services.worker.engine.local.output_streams import OutputStream
from services.worker.engine.local.schedule.block_pool import CachedBlock, Root
from services.worker.engine.local.schedule.reweighting import Reweighting


class AdapterHandle(Protocol):
    """All that scheduling needs of an adapter: it runs, and is tested, without torch."""

    @property
    def digest(self) -> str:
        """Names its content; prefixes are cached by it."""
        ...


Adapter = TypeVar("Adapter", bound=AdapterHandle)


@dataclass(eq=False, slots=True)
class Sequence(Generic[Adapter]):
    """A request on its way; only the engine's thread touches it once it is submitted."""

    request: EngineRequest
    adapter: Adapter | None
    """Kept here too, so that weights outlive their slot until the last step that uses them."""
    stop_ids: frozenset[int]
    """Tokens that end the sequence: the request's own, and the model's unless the request ignores them."""
    stream: OutputStream
    tokens: list[int] = field(init=False)
    """Prompt, then output."""
    computed: int = 0
    """Tokens whose keys and values are in the cache; always fewer than `tokens`."""
    blocks: "array[int]" = field(default_factory=lambda: array("i"))
    """The block table, as kernels read it: block i holds the keys and values of tokens i * block_size and on."""
    published: list[CachedBlock] = field(default_factory=list)
    """The first of `blocks`: those that are full and computed, as the prefix cache knows them."""
    cached_tokens: int = 0
    """Prompt tokens that were in the cache when it was first admitted."""
    answered: bool = False
    """Whether a token of it was chosen here; until then its prompt is not counted."""
    arrived: float = field(default_factory=time.monotonic)
    """Seconds, by the monotonic clock."""
    begun: bool = False
    """Whether a step has computed any of it; what it finds of its own after a preemption is no cached prefix."""

    reweighting: Reweighting | None = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = [*self.request.prompt, *self.request.produced]
        self.reweighting = Reweighting.of(self.request.sampling)

    @property
    def root(self) -> Root:
        """Where its prefix begins in the prefix cache."""
        return self.request.account_id, "" if self.adapter is None else self.adapter.digest

    @property
    def prompt_length(self) -> int:
        return len(self.request.prompt)

    @property
    def given_length(self) -> int:
        """Tokens that it came with: its prompt, and what was produced elsewhere."""
        return self.prompt_length + len(self.request.produced)

    @property
    def output_length(self) -> int:
        """What was produced elsewhere included."""
        return len(self.tokens) - self.prompt_length

    @property
    def remaining(self) -> int:
        """Tokens to compute before the next one can be sampled; 1 while decoding."""
        return len(self.tokens) - self.computed
