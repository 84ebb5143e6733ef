"""Tokens are chosen as sampling.proto says, and each row by itself."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from services.worker.engine.interface import Sampling
from services.worker.engine.local import sampler
from services.worker.engine.local.native import native_sampler
from services.worker.engine.local.sampler import Sampled, SampleRow, uniform
from services.worker.engine.local.schedule.reweighting import Reweighting
from tests.support.kernels import WAYS, kernels_of

DRAWS = 2000
Sampler = Callable[[Tensor, Sequence[SampleRow]], list[Sampled | None]]


class _Now:
    """The one that a test is about: in torch, or in a kernel."""

    sample: Sampler


# The tests' probabilities are no bfloat16 numbers; test_kernels_choosing has those.
EXACT = [way for way in WAYS if "f32" in str(way.id)]


@pytest.fixture(autouse=True, params=["torch", *EXACT])
def sampler_of_this_test(request: pytest.FixtureRequest) -> None:
    if request.param == "torch":
        _Now.sample = staticmethod(sampler.sample)
        return
    kernels = kernels_of(request.param)
    _Now.sample = staticmethod(lambda logits, rows: native_sampler.sample(kernels, logits.float(), rows))


def sample(logits: Tensor, rows: Sequence[SampleRow]) -> list[Sampled | None]:
    return _Now.sample(logits, rows)


def row(tokens: list[int] | None = None, *, prompt_length: int = 1, **options: Any) -> SampleRow:
    sampling = Sampling(max_tokens=10, **options)
    return SampleRow(sampling, tokens or [0], prompt_length, Reweighting.of(sampling))


def choose(logits: Tensor, one: SampleRow) -> int:
    (sampled,) = sample(logits.unsqueeze(0), [one])
    assert sampled is not None
    return sampled.token_id


def drawn(logits: Tensor, draws: int = DRAWS, **sampling: Any) -> Counter[int]:
    """How often each token comes over many seeds."""
    rows = [row(seed=seed, **sampling) for seed in range(draws)]
    sampled = sample(logits.expand(draws, -1), rows)
    return Counter(one.token_id for one in sampled if one is not None)


def probabilities(*values: float) -> Tensor:
    return torch.tensor(values).log()


def test_temperature_zero_takes_the_likeliest() -> None:
    assert choose(torch.tensor([0.1, 3.0, 2.9]), row(temperature=0.0)) == 1


def test_a_vanishing_temperature_is_greedy_and_not_an_overflow() -> None:
    assert choose(torch.tensor([1.0, 300.0, 2.9]), row(temperature=1e-38)) == 1


def test_greedy_takes_penalties_and_bias_into_account() -> None:
    logits = torch.tensor([1.0, 3.0, 2.5])
    assert choose(logits, row([0, 1], temperature=0.0, presence_penalty=1.0)) == 2
    assert choose(logits, row(temperature=0.0, logit_bias={0: 5.0})) == 0


def test_tokens_come_as_often_as_their_probability_says() -> None:
    expected = [0.5, 0.3, 0.15, 0.05]
    counts = drawn(probabilities(*expected))
    for token, probability in enumerate(expected):
        spread = math.sqrt(probability * (1 - probability) / DRAWS)
        assert abs(counts[token] / DRAWS - probability) < 5 * spread


def test_temperature_flattens_the_distribution() -> None:
    counts = drawn(probabilities(0.8, 0.2), temperature=2.0)
    assert abs(counts[0] / DRAWS - 2 / 3) < 0.06


def test_top_k_keeps_the_k_likeliest() -> None:
    assert set(drawn(probabilities(0.1, 0.4, 0.2, 0.3), top_k=2)) == {1, 3}
    assert set(drawn(probabilities(0.4, 0.6), top_k=50)) == {0, 1}


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.39, {1}), (0.41, {1, 3}), (0.69, {1, 3}), (0.71, {1, 2, 3}), (0.95, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p: float, kept: set[int]) -> None:
    assert set(drawn(probabilities(0.1, 0.4, 0.2, 0.3), top_p=top_p)) == kept


def test_top_p_looks_at_what_top_k_left() -> None:
    # After top-k 2 the two are 4/7 and 3/7: the first alone reaches one half.
    assert set(drawn(probabilities(0.1, 0.4, 0.2, 0.3), top_k=2, top_p=0.5)) == {1}


@pytest.mark.parametrize(
    ("min_p", "kept"), [(0.2, {0, 1, 2, 3}), (0.3, {1, 2, 3}), (0.7, {1, 3}), (1.0, {1})]
)
def test_min_p_keeps_what_comes_near_the_likeliest(min_p: float, kept: set[int]) -> None:
    assert set(drawn(probabilities(0.1, 0.4, 0.2, 0.3), min_p=min_p)) == kept


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_of_prompt_and_output() -> None:
    logits = torch.tensor([3.0, -1.0, 2.0, -1.5])
    options: dict[str, Any] = {"temperature": 0.0, "repetition_penalty": 2.0}
    assert choose(logits, row([0, 1], **options)) == 2  # 1.5, -2, 2, -1.5
    assert choose(torch.tensor([-1.0, -1.5]), row([0], **options)) == 1  # -2, -1.5


def test_presence_counts_once_and_frequency_each_time_and_only_the_output() -> None:
    logits = torch.tensor([3.0, 2.0])
    produced = [0, 0, 0, 1, 0, 0]  # the first two are the prompt
    assert choose(logits, row(produced, prompt_length=2, temperature=0.0, presence_penalty=1.0)) == 0
    assert choose(logits, row(produced, prompt_length=2, temperature=0.0, frequency_penalty=0.4)) == 0
    assert choose(logits, row(produced, prompt_length=2, temperature=0.0, frequency_penalty=0.6)) == 1
    assert choose(logits, row([0, 0, 0], prompt_length=3, temperature=0.0, presence_penalty=2.0)) == 0


def test_penalties_come_after_temperature() -> None:
    # Over temperature 2 the logits are 2 and 1; a penalty of 1.5 then turns them round. Before it, it would not.
    logits = torch.tensor([4.0, 2.0])
    counts = drawn(logits, tokens=[1, 0], temperature=2.0, presence_penalty=1.5)
    assert abs(counts[1] / DRAWS - 1 / (1 + math.exp(-0.5))) < 0.06


def test_a_bias_of_a_hundred_forbids_and_forces() -> None:
    logits = probabilities(0.7, 0.2, 0.1)
    assert 0 not in drawn(logits, draws=200, logit_bias={0: -100.0})
    assert set(drawn(logits, draws=200, logit_bias={2: 100.0})) == {2}


def test_the_strongest_penalties_leave_a_distribution() -> None:
    logits = torch.tensor([60.0, -60.0, 1.0])
    rows = row([0, 1, 2], temperature=0.01, repetition_penalty=1e-37, presence_penalty=2.0)
    assert choose(logits, rows) in {0, 2}  # both at the largest logit there is; 1 has no weight left


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 100)
    rows = [
        row([3], seed=1),
        row([4], seed=2, top_k=5),
        row([5], seed=3, top_p=0.7),
        row([6], seed=4, min_p=0.1, temperature=1.7),
        row([7, 7], seed=5, presence_penalty=1.0),
        row([8], temperature=0.0),
    ]
    together = [one.token_id for one in sample(logits, rows) if one is not None]
    assert together == [choose(logits[place], one) for place, one in enumerate(rows)]
    backwards = [one.token_id for one in sample(logits.flip(0), rows[::-1]) if one is not None]
    assert together == backwards[::-1]


def test_the_same_seed_at_the_same_position_draws_the_same_wherever_the_prompt_ends() -> None:
    logits = probabilities(*[0.01] * 100)
    prompt_of_three = SampleRow(Sampling(10, seed=9), [1, 2, 3, 4, 5], 3, None)
    resumed = dataclasses.replace(prompt_of_three, prompt_length=5)
    assert choose(logits, prompt_of_three) == choose(logits, resumed)


def test_seeds_and_positions_draw_independently_and_evenly() -> None:
    along = [uniform(7, position) for position in range(4000)]
    across = [uniform(seed, 7) for seed in range(4000)]
    for numbers in (along, across):
        assert all(0.0 <= number < 1.0 for number in numbers)
        assert len(set(numbers)) == 4000
        assert abs(sum(numbers) / 4000 - 0.5) < 0.02
        pairs = itertools.pairwise(numbers)
        assert abs(sum((a - 0.5) * (b - 0.5) for a, b in pairs) / 4000) < 0.01
    assert uniform(2**64 - 1, 0) != uniform(0, 0)


def test_logprobs_are_the_models_own_whatever_the_sampling() -> None:
    logits = torch.randn(1, 50).to(torch.bfloat16)
    expected = logits.float().log_softmax(-1)[0]
    (sampled,) = sample(logits, [row(temperature=0.3, top_k=3, logit_bias={4: 50.0}, logprobs=2)])
    assert sampled is not None
    assert sampled.logprob is not None
    assert sampled.token_id == sampled.logprob.token_id == 4
    assert sampled.logprob.logprob == pytest.approx(float(expected[4]))
    assert [token for token, _ in sampled.logprob.top] == expected.topk(2).indices.tolist()
    assert [value for _, value in sampled.logprob.top] == pytest.approx(expected.topk(2).values.tolist())


def test_logprobs_of_zero_alternatives_are_the_tokens_alone_and_none_are_none() -> None:
    logits = torch.randn(2, 50)
    alone, none = sample(logits, [row(logprobs=0), row()])
    assert alone is not None
    assert none is not None
    assert alone.logprob is not None
    assert alone.logprob.top == ()
    assert none.logprob is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_not_finite_has_no_token_and_its_neighbours_do(bad: float, temperature: float) -> None:
    logits = torch.zeros(3, 10)
    logits[:, 2] = 5.0
    logits[1, 7] = bad
    first, second, third = sample(logits, [row(temperature=temperature)] * 3)
    assert second is None
    assert first is not None
    assert third is not None
