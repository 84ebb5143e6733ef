"""A figure from several rounds: the median, and an interval around it that takes nothing for granted about the noise.

The interval runs from the k-th least to the k-th largest value. Each round lies above the true median with chance 1/2,
so such an interval misses it with chance 2 P[Binomial(n, 1/2) < k], whatever the distribution: David and Nagaraja, Order
Statistics (3rd edition, 2003), section 7.1. With seven rounds k is 1: least to largest, 98.4 %.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A median over rounds; between `low` and `high` the true one lies with chance `confidence`."""

    median: float
    low: float
    high: float
    confidence: float
    """Below CONFIDENCE where there are fewer than six rounds: they can tell nothing."""
    values: tuple[float, ...]
    """By round."""

    def times(self, factor: float) -> "Estimate":
        """The same in another unit; `factor` is above 0."""
        return estimate([factor * value for value in self.values])


def estimate(values: Sequence[float]) -> Estimate:
    """The median of at least one value, and the narrowest such interval of CONFIDENCE; least to largest where there is none."""
    ordered, n = sorted(values), len(values)
    place = max((k for k in range(1, n // 2 + 1) if _confidence(n, k) >= CONFIDENCE), default=1)
    return Estimate(
        median=statistics.median(ordered),
        low=ordered[place - 1],
        high=ordered[n - place],
        confidence=_confidence(n, place),
        values=tuple(values),
    )


def ratio(measured: Mapping[str, Sequence[float]], above: str, below: str) -> Estimate:
    """One candidate over another, round by round: what slows the machine down slows both sides of a round."""
    return estimate([a / b for a, b in zip(measured[above], measured[below], strict=True)])


def _confidence(n: int, k: int) -> float:
    return 1 - sum(math.comb(n, i) for i in range(k)) / float(2 ** (n - 1))
