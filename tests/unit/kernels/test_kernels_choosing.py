"""A step's tokens from its logits, without sorting them."""

import pytest
import torch
from torch import Tensor

from services.worker.engine.local.native.kernels import Chosen, Kernels, choose
from services.worker.engine.local.native.kernels.structs import ChooseRow
from tests.support.kernels import WAYS, kernels_of, random


@pytest.fixture(params=WAYS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return kernels_of(request.param)


def row(*, draw: float = 0.0, **fields: float) -> ChooseRow:
    plain = {"temperature": 1.0, "top_p": 1.0, "repetition": 1.0, "logprobs": -1}
    return ChooseRow(draw=draw, **(plain | fields))


def greedy(kernels: Kernels, logits: Tensor) -> list[int]:
    return choose(kernels, logits, [row(greedy=1)] * logits.shape[0]).tokens


@pytest.mark.parametrize(("rows", "n"), [(1, 1), (3, 5), (2, 16), (4, 100), (32, 49152), (1, 20000)])
def test_the_largest_is_found(kernels: Kernels, rows: int, n: int) -> None:
    logits = random(kernels, rows, n)
    assert greedy(kernels, logits) == logits.float().argmax(-1).tolist()


def test_of_equals_the_first_is_found(kernels: Kernels) -> None:
    logits = torch.zeros(2, 30000, dtype=kernels.dtype)
    logits[1, [77, 8193, 29999]] = 2.0
    assert greedy(kernels, logits) == [0, 77]


@pytest.mark.parametrize("place", [0, 5, 17, 8192, 20000, 20004])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_has_no_token(kernels: Kernels, place: int, bad: float) -> None:
    logits = random(kernels, 3, 20005)
    logits[1, place] = bad
    logits[2] = -torch.inf
    for fields in ({"greedy": 1}, {}, {"top_p": 0.9}, {"logprobs": 3}):
        found = choose(kernels, logits, [row(draw=0.5, **fields)] * 3).tokens
        assert found[0] >= 0
        assert found[1:] == [-1, -1]


def kept(logits: Tensor, *, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> tuple[Tensor, Tensor]:
    """The tokens that the rules leave, in order, and the draws at which each ends."""
    weights, tokens = logits.double().softmax(-1).sort(descending=True, stable=True)
    if top_k:
        weights, tokens = weights[:top_k] / weights[:top_k].sum(), tokens[:top_k]
    keep = weights >= min_p * weights[0]
    if top_p < 1:
        keep &= weights.cumsum(-1) - weights < top_p
    keep[0] = True
    tokens, order = tokens[keep].sort()
    weights = weights[keep][order]
    return tokens, (weights / weights.sum()).cumsum(-1)


RULES = [
    {"top_p": 0.9}, {"top_p": 0.95}, {"top_p": 0.3}, {"top_p": 1e-9}, {"top_p": 0.999999999}, {"top_k": 1}, {"top_k": 50},
    {"top_k": 5000}, {"min_p": 0.05}, {"min_p": 1.0}, {"min_p": 1e-9}, {"top_k": 40, "top_p": 0.8},
    {"top_p": 0.9, "min_p": 0.01}, {"top_p": 0.9999999, "min_p": 1e-9}, {"top_k": 300, "top_p": 0.99, "min_p": 0.001},
]  # fmt: skip


@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize(("n", "spread"), [(1, 1.0), (37, 1.0), (5_000, 0.1), (20_000, 3.0), (49_152, 8.0)])
def test_every_draw_falls_on_its_token_of_those_that_are_kept(
    kernels: Kernels, rules: dict[str, float], n: int, spread: float
) -> None:
    logits = random(kernels, 1, n, spread=spread)
    temperature = 0.8
    tokens, ends = kept(logits[0].float() / temperature, **rules)  # type: ignore[arg-type]  # by their names
    draws = torch.linspace(0.001, 0.999, 41, dtype=torch.float64)
    # Where a draw lies on a token's very edge, either is right; weights are summed in float32.
    edges = torch.cat([torch.zeros(1, dtype=torch.float64), ends])
    sure = (edges - draws.unsqueeze(1)).abs().amin(-1) > 1e-5
    rows = [row(draw=float(draw), temperature=temperature, **rules) for draw in draws]
    got = choose(kernels, logits.expand(len(rows), -1), rows).tokens
    expected = tokens[torch.searchsorted(ends, draws, right=True).clamp(max=len(tokens) - 1)].tolist()
    assert [one for one, certain in zip(got, sure, strict=True) if certain] == [
        one for one, certain in zip(expected, sure, strict=True) if certain
    ]


@pytest.mark.parametrize(("n", "spread"), [(1, 1.0), (1_000, 0.0), (1_025, 3.0), (49_152, 8.0)])
def test_without_rules_tokens_have_their_share_of_the_draws_in_order(
    kernels: Kernels, n: int, spread: float
) -> None:
    logits = random(kernels, 1, n, spread=spread)
    ends = logits[0].double().softmax(-1).cumsum(-1)
    draws = torch.linspace(0, 1, 101, dtype=torch.float64)[:-1]
    got = choose(kernels, logits.expand(len(draws), -1), [row(draw=float(draw)) for draw in draws]).tokens
    for draw, token in zip(draws.tolist(), got, strict=True):
        begin = 0.0 if token == 0 else float(ends[token - 1])
        assert begin - 1e-5 <= draw <= float(ends[token]) + 1e-5


def test_the_last_draw_falls_on_a_token_with_weight(kernels: Kernels) -> None:
    logits = torch.full((1, 5_000), -1e4).to(kernels.dtype)
    logits[0, 1_234] = 0.0
    for fields in ({}, {"top_p": 0.999}, {"top_k": 7}):
        assert choose(kernels, logits, [row(draw=1 - 2**-53, **fields)]).tokens == [1_234]


def test_equals_are_kept_in_their_order(kernels: Kernels) -> None:
    """bfloat16 has many: of a hundred equal ones top-p of a half keeps the first fifty."""
    logits = torch.full((1, 1_000), -30.0).to(kernels.dtype)
    logits[0, 100:200] = 1.0
    rows = [row(draw=draw, top_p=0.4999) for draw in (0.0, 0.5, 0.9999)]
    assert choose(kernels, logits.expand(3, -1), rows).tokens == [100, 125, 149]


@pytest.mark.parametrize("most", [0, 1, 5, 20])
def test_log_probabilities_are_the_models_own(kernels: Kernels, most: int) -> None:
    logits = random(kernels, 4, 30_000, spread=4.0)
    rows = [
        row(draw=0.7, temperature=0.3, top_k=9, logprobs=most),
        row(logprobs=-1),
        row(greedy=1, logprobs=most),
    ]
    found: Chosen = choose(kernels, logits[:3], rows)
    expected = logits.float().log_softmax(-1)
    for place in (0, 2):
        assert found.logprobs[place] == pytest.approx(float(expected[place, found.tokens[place]]), abs=1e-4)
        values, tokens = expected[place].sort(descending=True, stable=True)
        assert [token for token, _ in found.top[place]] == tokens[:most].tolist()
        assert [value for _, value in found.top[place]] == pytest.approx(values[:most].tolist(), abs=1e-4)
    assert found.top[1] == []


def test_rows_must_be_as_many_as_logits_has(kernels: Kernels) -> None:
    with pytest.raises(ValueError, match="rows must be 2"):
        choose(kernels, random(kernels, 2, 9), [row()])
