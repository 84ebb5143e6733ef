"""Sites: the places of a model where an input meets up to three projections, and what adapters put there."""

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.engine.local.adapters.delta import Delta
from services.worker.engine.local.native.kernels import structs
from services.worker.engine.local.native.kernels.library import Kernels
from services.worker.engine.local.native.kernels.packing import (
    Arena,
    address,
    address_of,
    pack_into,
    packed_bytes,
    packed_size,
    round_up,
)
from services.worker.engine.local.native.kernels.rowwise import OwnNorms


@dataclass(frozen=True)
class Site:
    """Projections that read the same input, their outputs side by side: q, k, v; or gate and up; or one alone."""

    index: int
    """Its place among the sites of the model, from 0."""
    inputs: int
    outputs: tuple[int, ...]
    """Of each projection; 1 to 3 of them."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.outputs) <= structs.MOST_SEGMENTS:
            raise ValueError(f"a site has 1 to {structs.MOST_SEGMENTS} projections, not {len(self.outputs)}")

    @property
    def width(self) -> int:
        """Columns of all outputs together."""
        return sum(self.outputs)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each projection's columns begin."""
        return tuple(sum(self.outputs[:i]) for i in range(len(self.outputs)))


class PackedAdapter:
    """One adapter's weights at all sites of a model, packed into memory of its own. Immutable."""

    def __init__(
        self,
        kernels: Kernels,
        sites: Sequence[Site],
        deltas: Mapping[tuple[int, int], Delta],
        *,
        norms: OwnNorms | None = None,
    ) -> None:
        """`deltas` by (index of the site, projection). Sites are numbered from 0 in the order given.

        norms: its own, where it brings any. Raises ValueError for a delta whose shape does not fit its projection.
        """
        for (index, projection), delta in deltas.items():
            _check(sites[index], projection, delta)
        by_site = [
            [deltas.get((site.index, projection)) for projection in range(len(site.outputs))]
            for site in sites
        ]
        self._arena = Arena(
            sum(_site_bytes(kernels, site, parts) for site, parts in zip(sites, by_site, strict=True))
        )
        self._kept: list[Tensor] = []
        self.sites: ctypes.Array[structs.AdapterSite] = (structs.AdapterSite * len(sites))()
        for site, parts in zip(sites, by_site, strict=True):
            self._fill(kernels, site, parts)
        self.norms = norms
        self.nbytes = sum(tensor.nbytes for tensor in self._kept) + (0 if norms is None else norms.nbytes)
        self.width = max((packed.width for packed in self.sites), default=0)
        """The most columns that any site shrinks to."""

    def _take(self, count: int, dtype: torch.dtype) -> Tensor:
        taken = self._arena.take(count, dtype)
        self._kept.append(taken)
        return taken

    def _vector(self, values: Tensor | None) -> int:
        if values is None:
            return 0
        return address(self._take(values.numel(), torch.float32).copy_(values))

    def _fill(self, kernels: Kernels, site: Site, parts: Sequence[Delta | None]) -> None:
        packed = self.sites[site.index]
        columns = _columns(kernels, parts)
        packed.width = round_up(sum(columns), kernels.lanes)
        packed.touched = int(any(part is not None for part in parts))
        if packed.width:
            a = self._take(packed_size(kernels, packed.width, site.inputs), kernels.dtype)
            scales = self._take(packed.width, torch.float32)
            packed.a, packed.scales = address(a), address(scales)
        column = 0
        for place, (part, width) in enumerate(zip(parts, columns, strict=True)):
            if part is None:
                continue
            target = packed.part[place]
            target.multiplier, target.bias = self._vector(part.multiplier), self._vector(part.bias)
            if part.a is None or part.b is None:
                continue
            pack_into(kernels, part.a.to(kernels.dtype), a, column=column)
            scales[column : column + part.rank] = part.scale
            b = self._take(packed_size(kernels, site.outputs[place], part.rank), kernels.dtype)
            pack_into(kernels, part.b.to(kernels.dtype), b)
            target.b, target.rank, target.column = address(b), part.rank, column
            column += width


class LoraRuns:
    """Whose each row of a batch is. Rows of one adapter are best adjacent: each stretch reads its weights anew."""

    def __init__(self, pieces: Iterable[tuple[PackedAdapter | None, int]]) -> None:
        """`pieces`: adapter and number of rows, in the order of the batch; None for rows of the base."""
        stretches: list[tuple[PackedAdapter | None, int, int]] = []
        rows = 0
        for adapter, count in pieces:
            if stretches and stretches[-1][0] is adapter:
                stretches[-1] = (adapter, stretches[-1][1], stretches[-1][2] + count)
            elif count:
                stretches.append((adapter, rows, count))
            rows += count
        self.rows = rows
        """Of the whole batch."""
        owned = [(adapter, row, count) for adapter, row, count in stretches if adapter is not None]
        self._adapters = [adapter for adapter, _, _ in owned]  # kept alive
        self._runs = (structs.Run * len(owned))(
            *(
                structs.Run(
                    row,
                    count,
                    address_of(adapter.sites),
                    0 if adapter.norms is None else address_of(adapter.norms.layers),
                )
                for adapter, row, count in owned
            )
        )
        self._width = max((adapter.width for adapter in self._adapters), default=0)

    def __len__(self) -> int:
        """How many stretches of adapters' rows there are."""
        return len(self._runs)

    def fill(self, runs: structs.Runs, site: int) -> None:
        """Put into a job what concerns a site."""
        runs.run = address_of(self._runs)
        runs.count = len(self._runs)
        runs.site = site
        runs.width = self._width


def _columns(kernels: Kernels, parts: Sequence[Delta | None]) -> list[int]:
    """What each projection takes of the shrunk row: its rank, rounded up to whole depth steps of its B."""
    return [0 if part is None else round_up(part.rank, kernels.step) for part in parts]


def _site_bytes(kernels: Kernels, site: Site, parts: Sequence[Delta | None]) -> int:
    width = round_up(sum(_columns(kernels, parts)), kernels.lanes)
    total = packed_bytes(kernels, width, site.inputs) + round_up(4 * width, 64)
    for part, outputs in zip(parts, site.outputs, strict=True):
        if part is not None:
            vectors = (part.multiplier is not None) + (part.bias is not None)
            total += packed_bytes(kernels, outputs, part.rank) + vectors * round_up(4 * outputs, 64)
    return total


def _check(site: Site, projection: int, delta: Delta) -> None:
    outputs = site.outputs[projection]
    expected = {
        "a": (delta.rank, site.inputs),
        "b": (outputs, delta.rank),
        "multiplier": (outputs,),
        "bias": (outputs,),
    }
    if (delta.a is None) != (delta.b is None):
        raise ValueError(f"site {site.index}, projection {projection}: A and B go together")
    for name, shape in expected.items():
        given: Tensor | None = getattr(delta, name)
        if given is not None and tuple(given.shape) != shape:
            raise ValueError(
                f"site {site.index}, projection {projection}: {name} must be {list(shape)}, not {list(given.shape)}"
            )
