"""Who has had how much, and whose turn it is: accounts by virtual token counters.

Sheng, Cao, Li and others, Fairness in Serving Large Language Models (OSDI 2024): each account has a counter of what has been
computed for it; the one with the least goes first; who comes back after a pause begins where the least of the present
ones is, so that a pause is no credit.
"""

from collections import deque
from collections.abc import Iterator
from typing import Generic

from services.worker.engine.local.schedule.sequence import Adapter, Sequence

# What a token of output costs beside one of a prompt, as in the paper.
OUTPUT_WEIGHT = 2.0


class FairQueue(Generic[Adapter]):
    """The sequences that wait, a queue for each account; and the counters of all that wait or run."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Sequence[Adapter]]] = {}
        self._counters: dict[str, float] = {}
        self._present: dict[str, int] = {}
        """How many sequences of an account wait or run."""
        self._weights: dict[str, float] = {}

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def __iter__(self) -> Iterator[Sequence[Adapter]]:
        for queue in self._queues.values():
            yield from queue

    def __contains__(self, sequence: Sequence[Adapter]) -> bool:
        return sequence in self._queues.get(_account(sequence), ())

    def add(self, sequence: Sequence[Adapter]) -> None:
        """Queue a sequence that has come."""
        account = _account(sequence)
        if not self._present.get(account):
            least = min((self._counters[one] for one in self._present), default=0.0)
            self._counters[account] = max(self._counters.get(account, 0.0), least)
        self._present[account] = self._present.get(account, 0) + 1
        self._weights[account] = sequence.request.account_weight
        self._queues.setdefault(account, deque()).append(sequence)

    def put_back(self, sequence: Sequence[Adapter]) -> None:
        """Queue one that has had to give way, ahead of its account's others."""
        self._queues.setdefault(_account(sequence), deque()).appendleft(sequence)

    def take(self, account: str) -> Sequence[Adapter]:
        """Its next one, which leaves the queue."""
        queue = self._queues[account]
        sequence = queue.popleft()
        if not queue:
            del self._queues[account]
        return sequence

    def next_of(self, account: str) -> Sequence[Adapter] | None:
        """Its next one; None where none waits."""
        queue = self._queues.get(account)
        return queue[0] if queue else None

    def remove(self, sequence: Sequence[Adapter]) -> None:
        """One that waits leaves the queue."""
        account = _account(sequence)
        self._queues[account].remove(sequence)
        if not self._queues[account]:
            del self._queues[account]

    def gone(self, sequence: Sequence[Adapter]) -> None:
        """One that waited or ran is here no more."""
        account = _account(sequence)
        self._present[account] -= 1
        if not self._present[account]:
            del self._present[account], self._weights[account]
        if not self._present:
            # Nobody is here whom anybody could be compared with.
            self._counters.clear()

    def charge(self, sequence: Sequence[Adapter], prompt_tokens: int, output_tokens: int) -> None:
        """Note what has been computed for it."""
        cost = prompt_tokens + OUTPUT_WEIGHT * output_tokens
        self._counters[_account(sequence)] += cost / self._weights[_account(sequence)]

    def waiting(self) -> list[str]:
        """Accounts of which something waits."""
        return list(self._queues)

    def behind_first(self, accounts: set[str]) -> list[str]:
        """These accounts, the one that has had the least first."""
        return sorted(accounts, key=lambda account: self._counters[account])

    def weight_of(self, account: str) -> float:
        """Its share against others', as its latest sequence says."""
        return self._weights[account]

    def had(self, sequence: Sequence[Adapter]) -> float:
        """What its account has had."""
        return self._counters[_account(sequence)]


def _account(sequence: Sequence[Adapter]) -> str:
    return sequence.request.account_id
