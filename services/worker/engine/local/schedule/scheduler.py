"""Which tokens of which sequences the next step computes."""

from array import array
from dataclasses import dataclass
from typing import Generic

from services.worker.engine.local.schedule.block_pool import BlockPool
from services.worker.engine.local.schedule.fair_queue import FairQueue
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
    """Sequences join when there is room and leave when they end; accounts share the engine fairly (`FairQueue`).

    A sequence that needs a block when none is free takes those of the youngest one of the account that is furthest ahead,
    which waits at the head of its account's queue and is computed again later. The oldest of all never gives way, so
    that it always advances, and with it everything.
    """

    def __init__(self, pool: BlockPool, *, max_sequences: int, prefill_tokens: int) -> None:
        """`prefill_tokens`: of prompts, in one step, at most."""
        self.pool = pool
        self._max_sequences = max_sequences
        self._prefill_tokens = prefill_tokens
        self._waiting: FairQueue[Adapter] = FairQueue()
        self._running: list[Sequence[Adapter]] = []  # oldest first
        # Who is let in takes no last block, which a neighbour will need in the next step.
        self._kept_free = pool.total // 100
        self.preemptions = 0
        """Since the start."""

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def decoding(self) -> int:
        """Running sequences of which each step yields a token."""
        return sum(sequence.remaining == 1 for sequence in self._running)

    @property
    def has_work(self) -> bool:
        return bool(self._running or len(self._waiting))

    def add(self, sequence: Sequence[Adapter]) -> None:
        """Queue a sequence; the caller has checked that it fits an empty cache."""
        self._waiting.add(sequence)

    def remove(self, sequence: Sequence[Adapter]) -> None:
        """Forget a sequence and free its blocks; nothing happens when it has left already."""
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        else:
            return
        self._waiting.gone(sequence)
        self._free(sequence)

    def sequences(self) -> list[Sequence[Adapter]]:
        """All of them, running and waiting."""
        return [*self._running, *self._waiting]

    def schedule(self, prefill_tokens: int | None = None) -> list[StepChunk[Adapter]]:
        """The next step: one token of each decoding sequence, and of prompts as much as the budget, shared by account.

        `prefill_tokens` is the budget, where it is less than the most. Those of one adapter are adjacent, so that its
        weights are read once a layer. Empty only when there is no sequence.
        """
        preempted = self._grow_all()
        lengths = {sequence: 1 for sequence in self._running if sequence.remaining == 1}
        budget = min(prefill_tokens or self._prefill_tokens, self._prefill_tokens)
        self._share_out(budget, lengths, admit=not preempted)
        computed = sorted((one for one in self._running if one in lengths), key=_digest)
        return [StepChunk(sequence, sequence.computed, lengths[sequence]) for sequence in computed]

    def _grow_all(self) -> bool:
        """Give all that run the blocks for their tokens, the oldest first; whether somebody had to give way."""
        preempted = False
        for sequence in list(self._running):
            while sequence in self._running and not self._grow(sequence):
                self._preempt(self._victim())
                preempted = True
        return preempted

    def _victim(self) -> Sequence[Adapter]:
        """The youngest of the account furthest ahead. The oldest of all is none, unless it is alone."""
        younger = self._running[1:] or self._running
        # Of equals max takes the first: from behind, the youngest.
        return max(reversed(younger), key=self._waiting.had)

    def _share_out(self, budget: int, lengths: dict[Sequence[Adapter], int], *, admit: bool) -> None:
        """Divide the budget among accounts with prompts to compute; those behind go first, and what one leaves is the others'."""
        prompts: dict[str, list[Sequence[Adapter]]] = {}
        for sequence in self._running:
            if sequence.remaining > 1:
                prompts.setdefault(sequence.request.account_id, []).append(sequence)
        waiting = self._waiting.waiting() if admit else ()
        accounts = self._waiting.behind_first({*prompts, *waiting})
        if not accounts:
            return
        # By weight, and in whole blocks, so that no step is divided into crumbs; what is left is for those behind.
        size, whole = self.pool.block_size, sum(map(self._waiting.weight_of, accounts))
        shares = {one: int(budget * self._waiting.weight_of(one) / whole) // size * size for one in accounts}
        for most in (shares, dict.fromkeys(accounts, budget)):
            for account in accounts:
                left = min(most[account], budget)
                for sequence in prompts.get(account, []):
                    taken = min(left, sequence.remaining - lengths.get(sequence, 0))
                    if taken > 0:
                        lengths[sequence] = lengths.get(sequence, 0) + taken
                        left, budget = left - taken, budget - taken
                while admit and left > 0:
                    joined = self._admit(account)
                    if joined is None:
                        # Nobody overtakes who has had less.
                        admit = admit and self._waiting.next_of(account) is None
                        break
                    prompts.setdefault(account, []).append(joined)
                    taken = min(left, joined.remaining)
                    lengths[joined] = taken
                    left, budget = left - taken, budget - taken

    def _admit(self, account: str) -> Sequence[Adapter] | None:
        """The account's next one, where it has one and there is room."""
        sequence = self._waiting.next_of(account)
        if sequence is None or len(self._running) >= self._max_sequences:
            return None
        self._take_prefix(sequence)
        if not self._grow(sequence, keep_free=self._kept_free if self._running else 0):
            self._free(sequence)
            return None
        if not sequence.begun:
            sequence.cached_tokens = min(sequence.computed, sequence.prompt_length)
        self._running.append(self._waiting.take(account))
        return sequence

    def computed(self, chunk: StepChunk[Adapter]) -> None:
        """Note that a chunk's keys and values are in the cache; full blocks can be found there from now on."""
        sequence, size = chunk.sequence, self.pool.block_size
        sequence.begun = True
        sequence.computed = chunk.end
        output = max(0, chunk.end - max(chunk.start, sequence.given_length))
        self._waiting.charge(sequence, chunk.length - output, output)
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
        sequence.blocks = array("i", [cached.block for cached in sequence.published])
        sequence.computed = len(sequence.blocks) * self.pool.block_size

    def _grow(self, sequence: Sequence[Adapter], *, keep_free: int = 0) -> bool:
        """Give a sequence blocks for all the tokens it has; False where they are not there."""
        missing = self.pool.blocks_for(len(sequence.tokens)) - len(sequence.blocks)
        if missing > max(0, self.pool.free - keep_free):
            return False
        sequence.blocks.extend(self.pool.allocate(missing))
        return True

    def _preempt(self, sequence: Sequence[Adapter]) -> None:
        self.preemptions += 1
        self._running.remove(sequence)
        self._free(sequence)
        self._waiting.put_back(sequence)

    def _free(self, sequence: Sequence[Adapter]) -> None:
        self.pool.release(sequence.blocks)
        del sequence.blocks[:]
        sequence.published.clear()
        sequence.computed = 0


def _digest(sequence: Sequence[Adapter]) -> str:
    return "" if sequence.adapter is None else sequence.adapter.digest
