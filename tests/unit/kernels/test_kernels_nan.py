"""What is no number stays none: each kernel has NaN where torch has it, so that a broken adapter cannot pass for a sound one."""

import pytest
import torch
from torch import Tensor

from services.worker.engine.local.native.kernels import (
    Activation,
    Kernels,
    PackedCache,
    PackedLinear,
    PagedAttention,
    RmsNorm,
    SequenceBatch,
    Site,
)
from tests.support import kernels_reference as reference
from tests.support.kernels import WAYS, kernels_of, random

NAN, INF = float("nan"), float("inf")


@pytest.fixture(params=WAYS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return kernels_of(request.param)


def assert_nan_where(got: Tensor, expected: Tensor) -> None:
    assert torch.equal(got.float().isnan(), expected.float().isnan())


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("activation", [Activation.SILU, Activation.GELU_TANH])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_gate_passes_it_on(kernels: Kernels, bad: float, activation: Activation, rows: int) -> None:
    weights = [torch.eye(40).to(kernels.dtype)] * 2
    linear = PackedLinear(kernels, Site(0, 40, (40, 40)), weights)
    x = random(kernels, rows, 40)
    # A product with an identity spreads it over its row; so does torch's.
    x[0, 17] = bad
    gate, up = reference.linear(x, weights, [None, None]).split(40, dim=1)
    expected = reference.activate(activation, gate) * up
    assert expected[0].isnan().any()
    assert_nan_where(linear(x, activation=activation), expected)


def attention(kernels: Kernels, q: Tensor, k: Tensor, v: Tensor, window: int | None = None) -> Tensor:
    count = k.shape[0]
    blocks = [list(range(-(-count // 16)))]
    cache = PackedCache(kernels, blocks=len(blocks[0]), block_size=16, kv_heads=1, key_dim=16, value_dim=16)
    batch = SequenceBatch([count], [count], blocks, block_size=16)
    cache.write(k, v, batch.slots)
    return PagedAttention(cache, q.shape[1], scale=1.0, window=window)(q, batch)


@pytest.mark.parametrize("context", [5, 700])
@pytest.mark.parametrize("part", ["q", "k", "v"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("window", [None, 3])
def test_attention_passes_it_on(
    kernels: Kernels, part: str, bad: float, context: int, window: int | None
) -> None:
    q, k, v = (random(kernels, context, 1, 16, seed=i) for i in range(3))
    {"q": q, "k": k, "v": v}[part][2, 0] = bad
    expected = reference.attention(q, k, v, scale=1.0, window=window).isfinite()
    got = attention(kernels, q, k, v, window).float().isfinite()
    assert not expected.all()
    if part == "v":
        # torch multiplies a value that a row does not see by nought, which is none either; here only some are so.
        seen = slice(2, context if window is None else 2 + window)
        assert not got[seen].any()
    else:
        assert torch.equal(got, expected)


def test_scores_that_overflow_are_no_mean_of_all_values(kernels: Kernels) -> None:
    q = k = torch.full((5, 1, 16), 2e19).to(kernels.dtype)
    v = random(kernels, 5, 1, 16)
    assert attention(kernels, q, k, v).isnan().all()


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_norm_passes_it_on(kernels: Kernels, bad: float) -> None:
    x = random(kernels, 3, 40)
    x[1, 7] = bad
    weight = torch.ones(40)
    assert_nan_where(RmsNorm(kernels, weight, 1e-6)(x), reference.rms_norm(x, weight.to(kernels.dtype), 1e-6))
