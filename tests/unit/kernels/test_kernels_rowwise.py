"""RMSNorm."""

import pytest
import torch

from services.worker.engine.local.native.kernels import Kernels, RmsNorm
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


def test_what_does_not_fit_is_refused(kernels: Kernels) -> None:
    norm = RmsNorm(kernels, random(kernels, 8), 1e-5)
    with pytest.raises(ValueError, match=r"x must be \[rows, 8\]"):
        norm(random(kernels, 2, 9))
    with pytest.raises(ValueError, match="all must have 2 rows"):
        norm(random(kernels, 2, 8), residual=random(kernels, 3, 8))
