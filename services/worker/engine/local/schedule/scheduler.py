"""Which tokens of which sequences the next step computes."""

from collections import deque
from dataclasses import dataclass
from typing import Generic

from services.worker.engine.local.schedule.block_pool import BlockPool
from services.worker.engine.local.schedule.sequence import Adapter, Sequence


@dataclass(frozen=True)
class StepChunk(Generic[Adapter]):
    """Consecutive tokens of one sequence, computed in one step: one while decoding, more of a prompt."""

    sequence: Sequence[Adapter]
    start: int
    """Position of the first token."""
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def samples(self) -> bool:
        """Whether the step yields the sequence's next token."""
        return self.end == len(self.sequence.tokens)


class Scheduler(Generic[Adapter]):
    """Sequences join when there is room, oldest first, and leave when they end.

    A sequence that needs a block when none is free takes those of the youngest one, which waits at the head of
    the queue and is computed again later. The oldest therefore always advances, and with it everything.
    """

    def __init__(self, pool: BlockPool, *, max_sequences: int, prefill_tokens: int) -> None:
        self.pool = pool
        self._max_sequences = max_sequences
        self._prefill_tokens = prefill_tokens
        self._waiting: deque[Sequence[Adapter]] = deque()
        self._running: list[Sequence[Adapter]] = []  # oldest first
        self.preemptions = 0
        """Since the start."""

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    def add(self, sequence: Sequence[Adapter]) -> None:
        """Queue a sequence; the caller has checked that it fits an empty cache."""
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence[Adapter]) -> None:
        """Forget a sequence and free its blocks; nothing happens when it has left already."""
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        self._free(sequence)

    def sequences(self) -> list[Sequence[Adapter]]:
        """All of them, running and waiting."""
        return [*self._running, *self._waiting]

    def schedule(self) -> list[StepChunk[Adapter]]:
        """The next step: one token of each decoding sequence, and prompts up to the budget, oldest first.

        Empty only when there is no sequence.
        """
        chunks: list[StepChunk[Adapter]] = []
        budget = self._prefill_tokens
        preempted = False
        index = 0
        while index < len(self._running):
            sequence = self._running[index]
            while sequence in self._running and not self._grow(sequence):
                self._preempt(self._running[-1])
                preempted = True
            if index == len(self._running):
                break
            length = 1 if sequence.remaining == 1 else min(sequence.remaining, budget)
            if length:
                chunks.append(StepChunk(sequence, sequence.computed, length))
                budget -= length if sequence.remaining > 1 else 0
            index += 1
        if not preempted:
            chunks.extend(self._admit(budget))
        return chunks

    def _admit(self, budget: int) -> list[StepChunk[Adapter]]:
        chunks: list[StepChunk[Adapter]] = []
        while self._waiting and budget and len(self._running) < self._max_sequences:
            sequence = self._waiting[0]
            self._take_prefix(sequence)
            if not self._grow(sequence):
                self._free(sequence)
                break
            if not sequence.begun:
                sequence.cached_tokens = sequence.computed
            self._running.append(self._waiting.popleft())
            length = min(sequence.remaining, budget)
            chunks.append(StepChunk(sequence, sequence.computed, length))
            budget -= length
        return chunks

    def computed(self, chunk: StepChunk[Adapter]) -> None:
        """Note that a chunk's keys and values are in the cache; full blocks can be found there from now on."""
        sequence, size = chunk.sequence, self.pool.block_size
        sequence.begun = True
        sequence.computed = chunk.end
        while (len(sequence.published) + 1) * size <= sequence.computed:
            place = len(sequence.published)
            parent = sequence.published[-1] if place else sequence.root
            tokens = sequence.tokens[place * size : (place + 1) * size]
            cached = self.pool.publish(parent, sequence.blocks[place], tokens)
            if cached is None:
                return
            sequence.published.append(cached)

    def forget(self, sequence: Sequence[Adapter]) -> None:
        """Let nobody find what a running sequence has in the cache."""
        self.pool.forget(sequence.blocks)

    def _take_prefix(self, sequence: Sequence[Adapter]) -> None:
        sequence.published = self.pool.take_prefix(sequence.root, sequence.tokens)
        sequence.blocks = [cached.block for cached in sequence.published]
        sequence.computed = len(sequence.blocks) * self.pool.block_size

    def _grow(self, sequence: Sequence[Adapter]) -> bool:
        """Give a sequence blocks for all the tokens it has; False where they are not there."""
        missing = self.pool.blocks_for(len(sequence.tokens)) - len(sequence.blocks)
        if missing > self.pool.free:
            return False
        sequence.blocks.extend(self.pool.allocate(missing))
        return True

    def _preempt(self, sequence: Sequence[Adapter]) -> None:
        self.preemptions += 1
        self._running.remove(sequence)
        self._free(sequence)
        self._waiting.appendleft(sequence)

    def _free(self, sequence: Sequence[Adapter]) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks.clear()
        sequence.published.clear()
        sequence.computed = 0
