"""A ratio is the median of the rounds' own, with an interval that is sure enough."""

import math
import random

import pytest

from bench.results.ratios import CONFIDENCE, estimate, ratio


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    """Engine review B1: over 0.85 as a ratio of medians, and 0.78 as the median of ratios."""
    measured = {"lora": [94.0, 60.0, 78.0], "base": [100.0, 88.0, 92.0]}
    found = ratio(measured, "lora", "base")
    assert found.median == pytest.approx(78 / 92)
    assert found.values == pytest.approx((0.94, 60 / 88, 78 / 92))


def test_a_drift_that_both_sides_share_is_not_in_the_ratio() -> None:
    drift = [1.0, 0.7, 1.3, 0.9, 1.1, 0.6, 1.2]
    found = ratio({"a": [9 * one for one in drift], "b": [10 * one for one in drift]}, "a", "b")
    assert (found.low, found.median, found.high) == pytest.approx((0.9, 0.9, 0.9))


def test_rounds_that_do_not_pair_up_are_an_error() -> None:
    with pytest.raises(ValueError, match="argument"):
        ratio({"a": [1.0, 2.0], "b": [1.0]}, "a", "b")


@pytest.mark.parametrize(
    ("rounds", "place"),
    # The k-th value from either end, as tables of the sign test have it for 95 %.
    [(6, 1), (7, 1), (8, 1), (9, 2), (11, 2), (12, 3), (15, 4), (20, 6), (25, 8)],
)
def test_the_interval_is_by_order_statistics(rounds: int, place: int) -> None:
    values = [float(one) for one in range(1, rounds + 1)]
    random.Random(rounds).shuffle(values)
    found = estimate(values)
    assert (found.low, found.high) == (place, rounds + 1 - place)
    outside = 2 * sum(math.comb(rounds, i) for i in range(place)) / 2**rounds
    assert found.confidence == pytest.approx(1 - outside)
    assert found.confidence >= CONFIDENCE


def test_fewer_than_six_rounds_are_never_sure() -> None:
    for rounds in range(1, 6):
        found = estimate([1.0] * rounds)
        assert found.confidence < CONFIDENCE
    assert estimate([1.0] * 7).confidence == pytest.approx(0.984375)


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    """Of a skewed distribution, whose median is not its mean."""
    dice, true = random.Random(1), math.log(2)
    for rounds in (7, 12):
        found = [estimate([dice.expovariate(1) for _ in range(rounds)]) for _ in range(4_000)]
        held = sum(one.low <= true <= one.high for one in found) / len(found)
        assert held == pytest.approx(found[0].confidence, abs=0.012)


def test_another_unit_changes_all_of_an_estimate() -> None:
    found = estimate([1.0, 2.0, 4.0]).times(10)
    assert (found.low, found.median, found.high, found.values) == (10, 20, 40, (10, 20, 40))
