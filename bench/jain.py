"""How evenly something is shared out."""

from collections.abc import Sequence


def jain_index(shares: Sequence[float]) -> float:
    """1 where all shares are equal, 1/n where one of n has everything; shares are at least 0, and not all 0.

    Jain, Chiu and Hawe, A Quantitative Measure of Fairness and Discrimination for Resource Allocation in Shared Computer
    Systems (1984). For accounts of unequal weight, a share is service over weight.
    """
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))
