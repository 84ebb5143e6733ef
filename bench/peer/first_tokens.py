"""Whether two engines say the same: their first tokens for the same prompts, both greedy.

In bfloat16 two tokens may be as likely to the last digit, and sums of another order choose the other one; after that the
two go on from different texts. So the first token is what is held to a bar, and those after it are only shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """Shares, 0 to 1."""

    first: float
    """Of prompts whose first tokens are equal."""
    all: float
    """Of tokens that are equal to the other's at the same place, of all that were compared."""


def agreement(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> Agreement:
    """Compare [prompts][tokens] token ids. Raises ValueError where there is not as much of both, or nothing."""
    pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in zip(a, b, strict=True)]
    if not pairs:
        raise ValueError("there are no tokens to compare")
    first = sum(a[0] == b[0] for a, b in zip(ours, theirs, strict=True))
    return Agreement(first / len(ours), sum(a == b for a, b in pairs) / len(pairs))
