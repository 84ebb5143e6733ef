"""A verdict is what a run can tell, and no more."""

import pytest

from bench.results.bars import BARS, CEILINGS, verdict
from bench.results.ratios import Estimate, estimate


def spread(low: float, high: float, rounds: int = 7) -> Estimate:
    return estimate([low, high, *([(low + high) / 2] * (rounds - 2))])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.88, 0.95, "bar 0.88: reached"),
        (0.85, 0.95, "bar 0.88: open"),
        (0.80, 0.88, "bar 0.88: open"),
        (0.80, 0.87, "bar 0.88: SHORT"),
    ],
)
def test_a_bar_is_reached_or_missed_only_by_the_whole_interval(
    low: float, high: float, expected: str
) -> None:
    assert verdict("lora8_vs_base", spread(low, high), "AMD, AVX2") == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (50.0, 60.0, "at most 60: held"),
        (55.0, 65.0, "at most 60: open"),
        (60.0, 65.0, "at most 60: open"),
        (61.0, 65.0, "at most 60: OVER"),
    ],
)
def test_a_ceiling_is_held_or_not_only_by_the_whole_interval(low: float, high: float, expected: str) -> None:
    assert verdict("cold_adapter_added_ms", spread(low, high), "AMD, AVX2") == expected


def test_too_few_rounds_tell_nothing() -> None:
    assert verdict("lora8_vs_base", spread(0.95, 0.99, rounds=5), "Zen 4") == "bar 0.88: open"
    assert verdict("lora8_vs_base", spread(0.10, 0.20, rounds=5), "Zen 4") == "bar 0.88: open"


def test_a_bar_that_depends_on_the_cpu_is_that_of_its_kind() -> None:
    found = spread(1.4, 1.6)
    assert verdict("base_vs_vllm", found, "Zen 4") == "bar 1.3: reached"
    assert verdict("base_vs_vllm", found, "Emerald Rapids") == "bar 1.7: SHORT"
    assert verdict("base_vs_vllm", found, "Intel, AMX") == "no bar for this CPU"


def test_a_count_is_what_it_is() -> None:
    assert verdict("first_token_vs_transformers", 29 / 32, "Zen 4") == "bar 0.9: reached"
    assert verdict("first_token_vs_transformers", 28 / 32, "Zen 4") == "bar 0.9: SHORT"


def test_what_has_no_bar_has_no_verdict() -> None:
    assert verdict("busy_equal_vs_quiet", spread(0.1, 0.2), "Zen 4") == ""
    assert not set(BARS) & set(CEILINGS)
