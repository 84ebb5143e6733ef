"""Packed linear layers, alone and gated."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from services.worker.engine.local.native.kernels import (
    Activation,
    Arena,
    Kernels,
    PackedLinear,
    Site,
    linear_bytes,
)
from services.worker.engine.local.native.kernels.packing import pack_into, packed_size, unpack
from tests.support import kernels_reference as reference
from tests.support.kernels import WAYS, assert_near, kernels_of, random


@pytest.fixture(params=WAYS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return kernels_of(request.param)


def make(
    kernels: Kernels, inputs: int, outputs: tuple[int, ...], *, bias: bool = False
) -> tuple[PackedLinear, list[torch.Tensor], list[torch.Tensor | None]]:
    weights = [random(kernels, n, inputs, seed=i, spread=inputs**-0.5) for i, n in enumerate(outputs)]
    biases: list[torch.Tensor | None] = [
        random(kernels, n, seed=i) if bias else None for i, n in enumerate(outputs)
    ]
    return PackedLinear(kernels, Site(0, inputs, outputs), weights, biases), weights, biases


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 130, 257])
def test_any_number_of_rows_is_multiplied(kernels: Kernels, rows: int) -> None:
    linear, weights, biases = make(kernels, 96, (80, 48))
    x = random(kernels, rows, 96)
    assert_near(kernels, linear(x), reference.linear(x, weights, biases))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [(1, (1,)), (7, (5,)), (33, (17, 1, 50)), (576, (576, 192, 192)), (100, (49, 47)), (1537, (31,))],
)
@pytest.mark.parametrize("rows", [1, 19])
def test_odd_sizes_and_biases_are_exact_too(
    kernels: Kernels, inputs: int, outputs: tuple[int, ...], rows: int
) -> None:
    linear, weights, biases = make(kernels, inputs, outputs, bias=True)
    x = random(kernels, rows, inputs)
    assert_near(kernels, linear(x), reference.linear(x, weights, biases))


@pytest.mark.parametrize("activation", [Activation.SILU, Activation.GELU_TANH])
@pytest.mark.parametrize(("rows", "inner"), [(1, 48), (4, 50), (20, 96), (150, 33)])
def test_a_gate_is_applied_to_finished_outputs(
    kernels: Kernels, activation: Activation, rows: int, inner: int
) -> None:
    linear, weights, biases = make(kernels, 64, (inner, inner), bias=True)
    x = random(kernels, rows, 64)
    gate, up = reference.linear(x, weights, biases).split(inner, dim=1)
    assert_near(kernels, linear(x, activation=activation), reference.activate(activation, gate) * up)


@pytest.mark.parametrize(("rows", "outputs"), [(2, 48), (4, 50), (150, 33)])
def test_a_softcap_bends_finished_outputs_and_keeps_nan(kernels: Kernels, rows: int, outputs: int) -> None:
    linear, weights, biases = make(kernels, 64, (outputs,), bias=True)
    x = random(kernels, rows, 64, spread=30.0)
    x[-1] = float("nan")
    straight = reference.linear(x, weights, biases)
    assert straight[:-1].abs().max() > 40
    assert_near(kernels, linear(x[:-1], softcap=30.0), 30 * torch.tanh(straight[:-1] / 30))
    assert linear(x, softcap=30.0)[-1].isnan().all()
    assert_near(kernels, linear(x[:-1]), straight[:-1])  # it is forgotten after the call


def test_rows_with_strides_are_read_and_written_in_place(kernels: Kernels) -> None:
    linear, weights, biases = make(kernels, 32, (48,))
    wide, out = random(kernels, 6, 100), torch.zeros(6, 64, dtype=kernels.dtype)
    x = wide[:, 10:42]
    linear(x, out=out[:, 8:56])
    assert_near(kernels, out[:, 8:56], reference.linear(x, weights, biases))
    assert not out[:, :8].any()
    assert not out[:, 56:].any()


def test_no_rows_give_no_rows(kernels: Kernels) -> None:
    linear, _, _ = make(kernels, 32, (48,))
    assert linear(random(kernels, 0, 32)).shape == (0, 48)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_nothing(kernels: Kernels, threads: int) -> None:
    alone, _, _ = make(replace(kernels, threads=1), 128, (200, 72, 72))
    together, _, _ = make(replace(kernels, threads=threads), 128, (200, 72, 72))
    x = random(kernels, 40, 128)
    for _ in range(3):  # the threads sleep before the first call, and spin before the next
        assert torch.equal(together(x), alone(x))


def test_threads_of_several_callers_do_not_meet(kernels: Kernels) -> None:
    linears = [make(replace(kernels, threads=3), 128, (200, 72, 72))[0] for _ in range(4)]
    x = random(kernels, 40, 128)
    expected = linears[0](x)

    def many(linear: PackedLinear) -> bool:
        return all(torch.equal(linear(x), expected) for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(many, linears))


def test_a_row_does_not_depend_on_its_neighbours(kernels: Kernels) -> None:
    """What a seed promises: the same row gives the same bits in any batch."""
    linear, _, _ = make(kernels, 160, (96,))
    x = random(kernels, 37, 160)
    together = linear(x)
    assert torch.equal(torch.cat([linear(x[i : i + 1]) for i in range(37)]), together)


def test_packing_can_be_undone(kernels: Kernels) -> None:
    weight = random(kernels, 37, 21)
    packed = Arena(1 << 16).take(packed_size(kernels, 37, 21), kernels.dtype)
    pack_into(kernels, weight, packed)
    assert torch.equal(unpack(kernels, packed, 37, 21), weight)


def test_a_transposed_weight_is_packed_through_its_strides(kernels: Kernels) -> None:
    stored = random(kernels, 24, 40)
    linear = PackedLinear(kernels, Site(0, 24, (40,)), [stored.T])
    x = random(kernels, 3, 24)
    assert_near(kernels, linear(x), reference.linear(x, [stored.T], [None]))


def test_many_weights_share_one_arena(kernels: Kernels) -> None:
    site = Site(0, 24, (40, 8))
    arena = Arena(2 * linear_bytes(kernels, site))
    weights = [[random(kernels, n, 24, seed=i) for n in site.outputs] for i in range(2)]
    linears = [PackedLinear(kernels, site, pair, arena=arena) for pair in weights]
    x = random(kernels, 3, 24)
    for linear, pair in zip(linears, weights, strict=True):
        assert_near(kernels, linear(x), reference.linear(x, pair, [None, None]))
    with pytest.raises(ValueError, match="asked for"):
        PackedLinear(kernels, site, weights[0], arena=arena)


def test_what_does_not_fit_is_refused(kernels: Kernels) -> None:
    linear, _, _ = make(kernels, 32, (48, 40))
    with pytest.raises(ValueError, match=r"x must be \[rows, 32\]"):
        linear(random(kernels, 2, 31))
    with pytest.raises(ValueError, match="adjacent columns"):
        linear(random(kernels, 32, 2).T)
    with pytest.raises(ValueError, match="x must be"):
        linear(random(kernels, 2, 32).double())
    with pytest.raises(ValueError, match="rows differ"):
        linear(random(kernels, 2, 32), out=random(kernels, 3, 88))
    with pytest.raises(ValueError, match="a gate needs two"):
        linear(random(kernels, 2, 32), activation=Activation.SILU)
    with pytest.raises(ValueError, match="weight must be"):
        PackedLinear(kernels, Site(0, 32, (48,)), [random(kernels, 32, 48)])
    with pytest.raises(ValueError, match="1 to 3"):
        Site(0, 32, ())
