"""Adapters over mixed batches, by themselves and inside a linear layer."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from services.worker.engine.local.adapters.delta import Delta
from services.worker.engine.local.native.kernels import (
    Activation,
    Kernels,
    LoraRuns,
    PackedAdapter,
    PackedLinear,
    Site,
)
from tests.support import kernels_reference as reference
from tests.support.kernels import WAYS, assert_near, kernels_of, random

QKV = Site(0, 96, (80, 48, 48))
GATE_UP = Site(1, 96, (112, 112))
SITES = (QKV, GATE_UP)

Deltas = dict[tuple[int, int], Delta]


@pytest.fixture(params=WAYS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return kernels_of(request.param)


def deltas(
    kernels: Kernels, rank: int, seed: int, sites: Sequence[Site] = SITES, scale: float = 2.0
) -> Deltas:
    """All projections of all sites adapted."""
    return {
        (site.index, place): Delta(
            a=random(kernels, rank, site.inputs, seed=seed + place, spread=site.inputs**-0.5),
            b=random(kernels, outputs, rank, seed=seed + place, spread=rank**-0.5),
            scale=scale,
        )
        for site in sites
        for place, outputs in enumerate(site.outputs)
    }


def expected(site: Site, y: Tensor, x: Tensor, pieces: Sequence[tuple[Deltas | None, int]]) -> Tensor:
    y = y.float().clone()
    row = 0
    for piece, count in pieces:
        here = slice(row, row + count)
        for place, (offset, outputs) in enumerate(zip(site.offsets, site.outputs, strict=True)):
            delta = None if piece is None else piece.get((site.index, place))
            if delta is not None:
                columns = slice(offset, offset + outputs)
                y[here, columns] = reference.apply_delta(y[here, columns], x[here], delta)
        row += count
    return y


def check(
    kernels: Kernels, pieces: Sequence[tuple[Deltas | None, int]], sites: Sequence[Site] = SITES
) -> None:
    """Adapters at every site, against torch."""
    packed = {id(one): PackedAdapter(kernels, sites, one) for one, _ in pieces if one is not None}
    runs = LoraRuns([(None if one is None else packed[id(one)], count) for one, count in pieces])
    for site in sites:
        x = random(kernels, runs.rows, site.inputs)
        weights = [random(kernels, n, site.inputs, spread=site.inputs**-0.5) for n in site.outputs]
        linear = PackedLinear(kernels, site, weights)
        base = reference.linear(x, weights, [None] * len(weights))
        assert_near(kernels, linear(x, runs=runs), expected(site, base, x, pieces), roundings=3)


@pytest.mark.parametrize("rank", [1, 2, 3, 8, 15, 16, 17, 32, 64, 100, 128])
def test_every_rank_is_exact(kernels: Kernels, rank: int) -> None:
    one = deltas(kernels, rank, 1)
    check(kernels, [(one, 1)])
    check(kernels, [(one, 21)])


def test_adapters_of_different_ranks_and_base_rows_share_a_batch(kernels: Kernels) -> None:
    ranks = (16, 1, 64, 5, 128, 8)
    pieces: list[tuple[Deltas | None, int]] = [(None, 2)]
    for seed, rank in enumerate(ranks):
        pieces += [(deltas(kernels, rank, seed), 1 + seed), (None, seed % 2)]
    check(kernels, pieces)


@pytest.mark.parametrize(("adapters", "rows"), [(1, 32), (8, 4), (16, 2), (32, 1), (64, 1)])
def test_decode_batches_are_exact(kernels: Kernels, adapters: int, rows: int) -> None:
    check(kernels, [(deltas(kernels, 16, seed), rows) for seed in range(adapters)])


def test_prefill_and_decode_rows_share_a_batch(kernels: Kernels) -> None:
    check(
        kernels,
        [
            (deltas(kernels, 16, 0), 200),
            (None, 130),
            (deltas(kernels, 8, 1), 1),
            (deltas(kernels, 32, 2), 60),
        ],
    )


def test_an_adapter_may_come_back_later_in_the_batch(kernels: Kernels) -> None:
    one, two = deltas(kernels, 8, 0), deltas(kernels, 4, 1)
    check(kernels, [(one, 2), (two, 1), (one, 3), (None, 1), (one, 1)])


def test_rows_of_the_base_stay_as_they_are(kernels: Kernels) -> None:
    adapter = PackedAdapter(kernels, SITES, deltas(kernels, 8, 0))
    linear = PackedLinear(kernels, QKV, [random(kernels, n, QKV.inputs) for n in QKV.outputs])
    x = random(kernels, 5, QKV.inputs)
    without, mixed = linear(x), linear(x, runs=LoraRuns([(None, 2), (adapter, 1), (None, 2)]))
    assert torch.equal(mixed[:2], without[:2])
    assert torch.equal(mixed[3:], without[3:])
    assert not torch.equal(mixed[2], without[2])
    assert torch.equal(linear(x, runs=LoraRuns([(None, 5)])), without)


def test_an_adapter_may_leave_projections_and_sites_alone(kernels: Kernels) -> None:
    """Different projections by different adapters, and ranks that differ inside one (rank_pattern)."""
    whole, other = deltas(kernels, 16, 0), deltas(kernels, 3, 1)
    only_q = {(0, 0): whole[0, 0]}
    k_and_v = {(0, 1): whole[0, 1], (0, 2): other[0, 2]}
    only_up = {(1, 1): other[1, 1]}
    check(kernels, [(only_q, 2), (k_and_v, 3), (only_up, 1), (whole, 1)])


def test_multipliers_and_biases_apply_after_the_product(kernels: Kernels) -> None:
    """DoRA, lora_bias and trained biases; a bias may stand without A and B."""
    whole = deltas(kernels, 8, 0)
    wide = {
        key: Delta(
            delta.a, delta.b, delta.scale,
            multiplier=random(kernels, delta.b.shape[0], seed=3).float() if delta.b is not None else None,
            bias=random(kernels, delta.b.shape[0], seed=4).float() if delta.b is not None else None,
        )
        for key, delta in whole.items()
    }  # fmt: skip
    bias_alone = {(0, 1): Delta(bias=random(kernels, 48).float())}
    check(kernels, [(wide, 3), (bias_alone, 2), (whole, 1), (wide, 20)])


@pytest.mark.parametrize(
    "sites", [(Site(0, 33, (7, 50)),), (Site(0, 1, (1,)),), (Site(0, 100, (17, 1, 100)),)]
)
def test_odd_sizes_are_exact(kernels: Kernels, sites: tuple[Site, ...]) -> None:
    check(kernels, [(deltas(kernels, 3, 0, sites), 2), (None, 1), (deltas(kernels, 7, 1, sites), 17)], sites)


def test_adapters_are_applied_before_the_gate(kernels: Kernels) -> None:
    one = deltas(kernels, 8, 0)
    runs = LoraRuns([(PackedAdapter(kernels, SITES, one), 4), (None, 3)])
    weights = [random(kernels, n, 96, spread=0.1) for n in GATE_UP.outputs]
    x = random(kernels, 7, 96)
    got = PackedLinear(kernels, GATE_UP, weights)(x, runs=runs, activation=Activation.SILU)
    both = expected(GATE_UP, reference.linear(x, weights, [None, None]), x, [(one, 4), (None, 3)])
    gate, up = both.split(112, dim=1)
    assert_near(kernels, got, reference.activate(Activation.SILU, gate) * up, roundings=3)


def test_an_adapters_result_does_not_depend_on_its_neighbours(kernels: Kernels) -> None:
    adapters = [PackedAdapter(kernels, SITES, deltas(kernels, 16, seed)) for seed in range(6)]
    linear = PackedLinear(kernels, QKV, [random(kernels, n, 96) for n in QKV.outputs])
    x = random(kernels, 18, 96)
    together = linear(x, runs=LoraRuns([(one, 3) for one in adapters]))
    alone = [
        linear(x[row : row + 1], runs=LoraRuns([(adapters[row // 3], 1)]))
        for row in range(18)
    ]  # fmt: skip
    assert torch.equal(torch.cat(alone), together)


def test_an_adapter_takes_little_more_memory_than_its_weights(kernels: Kernels) -> None:
    sites = (Site(0, 576, (576, 192, 192)), Site(1, 576, (1536, 1536)))
    whole = deltas(kernels, 16, 0, sites)
    plain = sum(d.a.nbytes + d.b.nbytes for d in whole.values() if d.a is not None and d.b is not None)
    assert PackedAdapter(kernels, sites, whole).nbytes <= 1.01 * plain


def test_what_does_not_fit_is_refused(kernels: Kernels) -> None:
    good = deltas(kernels, 8, 0)[0, 0]
    with pytest.raises(ValueError, match="A and B go together"):
        PackedAdapter(kernels, SITES, {(0, 0): Delta(a=good.a)})
    with pytest.raises(ValueError, match=r"projection 1: b must be \[48, 8\]"):
        PackedAdapter(kernels, SITES, {(0, 1): good})
    adapter = PackedAdapter(kernels, SITES, {(0, 0): good})
    with pytest.raises(ValueError, match="rows differ"):
        PackedLinear(kernels, QKV, [random(kernels, n, 96) for n in QKV.outputs])(
            random(kernels, 2, 96), runs=LoraRuns([(adapter, 3)])
        )
