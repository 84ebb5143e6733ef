"""RMSNorm, gates, greedy choice."""

import pytest
import torch

from services.worker.engine.local.native.kernels import Kernels, RmsNorm, argmax
from tests.support import kernels_reference as reference
from tests.support.kernels import WAYS, assert_near, kernels_of, random


@pytest.fixture(params=WAYS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return kernels_of(request.param)


@pytest.mark.parametrize(("rows", "n"), [(1, 1), (3, 7), (32, 576), (2, 100), (0, 16)])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rows_are_normed(kernels: Kernels, rows: int, n: int, offset: float) -> None:
    x, weight = random(kernels, rows, n), random(kernels, n)
    got = RmsNorm(kernels, weight, 1e-5, offset=offset)(x)
    assert_near(kernels, got, reference.rms_norm(x, weight.float() + offset, 1e-5))


def test_a_residual_takes_the_sum_and_is_what_is_normed(kernels: Kernels) -> None:
    x, residual, weight = random(kernels, 5, 70), random(kernels, 5, 70, seed=1), random(kernels, 70)
    total = x + residual
    got = RmsNorm(kernels, weight, 1e-5)(x, residual=residual)
    assert torch.equal(residual, total)
    assert_near(kernels, got, reference.rms_norm(total, weight, 1e-5))


@pytest.mark.parametrize(("rows", "n"), [(1, 1), (3, 5), (2, 16), (4, 100), (32, 49152), (1, 20000)])
def test_the_largest_is_found(kernels: Kernels, rows: int, n: int) -> None:
    logits = random(kernels, rows, n)
    assert torch.equal(argmax(kernels, logits), logits.float().argmax(-1))


def test_of_equals_the_first_is_found(kernels: Kernels) -> None:
    logits = torch.zeros(3, 30000, dtype=kernels.dtype)
    logits[1, [77, 8193, 29999]] = 2.0
    logits[2] = float("-inf")
    assert argmax(kernels, logits).tolist() == [0, 77, 0]


@pytest.mark.parametrize("place", [0, 5, 17, 8192, 20000, 20004])
def test_a_row_with_nan_has_no_largest(kernels: Kernels, place: int) -> None:
    logits = random(kernels, 2, 20005)
    logits[1, place] = float("nan")
    found = argmax(kernels, logits).tolist()
    assert found[0] == int(logits[0].argmax())
    assert found[1] == -1


def test_what_does_not_fit_is_refused(kernels: Kernels) -> None:
    norm = RmsNorm(kernels, random(kernels, 8), 1e-5)
    with pytest.raises(ValueError, match=r"x must be \[rows, 8\]"):
        norm(random(kernels, 2, 9))
    with pytest.raises(ValueError, match="all must have 2 rows"):
        norm(random(kernels, 2, 8), residual=random(kernels, 3, 8))
