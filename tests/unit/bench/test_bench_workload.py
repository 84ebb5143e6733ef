"""Prompts, speeds and arrivals of the benchmarks."""

import itertools

import pytest

from bench.peer.first_tokens import agreement
from bench.rows.open_loop import mixed_requests, percentile, poisson_arrivals
from bench.scale import FULL
from bench.workload import Answer, Workload, decode_speed


def test_prompts_are_the_beginnings_of_longer_and_more_ones() -> None:
    """Peers are given the longest prompts once and take their beginnings; only then do they run what we run."""
    many = Workload(requests=32, prompt=512).prompts()
    assert Workload(requests=8, prompt=64).prompts() == [prompt[:64] for prompt in many[:8]]
    assert all(100 <= token < 40_000 for prompt in many for token in prompt)
    assert len({tuple(prompt) for prompt in many}) == 32


def test_decode_is_measured_while_all_decode() -> None:
    early = Answer(arrivals=[(1.0, 1), (2.0, 1), (4.0, 1), (5.0, 1), (6.0, 1)])
    late = Answer(arrivals=[(3.0, 1), (4.0, 2), (5.0, 1)])
    # From 3 s, when the later one has its first token, to 5 s, when it ends: 2 of one and 3 of the other.
    assert decode_speed([early, late]) == pytest.approx(5 / 2)


def test_sequences_that_never_decode_together_have_no_speed() -> None:
    with pytest.raises(ValueError, match="more new tokens"):
        decode_speed([Answer(arrivals=[(1.0, 1), (2.0, 1)]), Answer(arrivals=[(3.0, 1), (4.0, 1)])])


def test_arrivals_are_a_poisson_process_of_the_rate() -> None:
    moments = poisson_arrivals(4.0, 20_000, seed=1)
    gaps = [later - earlier for earlier, later in itertools.pairwise([0.0, *moments])]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.25, rel=0.03)
    assert min(gaps) >= 0
    # An exponential's deviation is its mean, and 1/e of it is longer than that.
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.08)
    assert sum(gap > mean for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.015)
    assert poisson_arrivals(4.0, 10, seed=1) == moments[:10]
    assert poisson_arrivals(4.0, 10, seed=2) != moments[:10]


def test_requests_of_the_open_loop_are_of_all_lengths_models_and_accounts() -> None:
    requests = mixed_requests(FULL, [], 400, seed=3)
    lengths = sorted(len(one.prompt) for one in requests)
    least, most = FULL.mixed_prompt
    assert least <= lengths[0]
    assert lengths[-1] <= most
    # As many below the geometric mean, 128, as above it.
    assert sum(length < (least * most) ** 0.5 for length in lengths) / 400 == pytest.approx(0.5, abs=0.08)
    assert len({one.account for one in requests}) == 4
    assert len({one.new for one in requests}) > 30


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_a_value_that_was_there(share: float, expected: float) -> None:
    values = [float(one) for one in range(1, 101)]
    assert percentile(values[::-1], share) == expected


def test_agreement_is_of_first_tokens_and_of_all() -> None:
    found = agreement([[1, 2, 3], [4, 5, 6]], [[1, 2, 9], [7, 5, 6]])
    assert found.first == 0.5
    assert found.all == pytest.approx(4 / 6)


@pytest.mark.parametrize("theirs", [[[1, 2]], [[1], [2]], [[1, 2], [3, 4], [5, 6]]])
def test_answers_that_are_not_as_many_or_as_long_are_not_compared(theirs: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="argument"):
        agreement([[1, 2], [3, 4]], theirs)
