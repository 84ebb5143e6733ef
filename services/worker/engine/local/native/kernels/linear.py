"""Linear layers over packed weights, with adapters and the gate of an MLP in the same call."""

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from services.worker.engine.local.native.kernels import structs
from services.worker.engine.local.native.kernels.library import Kernels
from services.worker.engine.local.native.kernels.packing import (
    Arena,
    address,
    address_of,
    pack_into,
    packed_bytes,
    packed_size,
    unpack,
)
from services.worker.engine.local.native.kernels.sites import LoraRuns, Site


class Activation(IntEnum):
    """What a gated site does to its first projection."""

    NONE = 0
    SILU = 1
    GELU_TANH = 2


class PackedLinear:
    """The weights of a site. Calls of one object must not overlap in time."""

    def __init__(
        self,
        kernels: Kernels,
        site: Site,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None] = (),
        *,
        arena: Arena | None = None,
    ) -> None:
        """weights: [outputs, inputs] of each projection, in the kernels' dtype; biases: none, or one or None for each.

        arena: where the packed weights go, one of their own unless given. The originals are not kept.
        Raises ValueError for shapes that do not fit the site.
        """
        self.site = site
        self._kernels = kernels
        biases = biases or [None] * len(weights)
        for outputs, weight, bias in zip(site.outputs, weights, biases, strict=True):
            if tuple(weight.shape) != (outputs, site.inputs) or (
                bias is not None and bias.shape != (outputs,)
            ):
                raise ValueError(f"weight must be [{outputs}, {site.inputs}], not {list(weight.shape)}")
        arena = arena or Arena(linear_bytes(kernels, site))
        self._kept: list[Tensor] = []
        self._packed: list[Tensor] = []
        self.struct = structs.Site(k=site.inputs, count=len(weights))
        for place, (outputs, weight, bias) in enumerate(zip(site.outputs, weights, biases, strict=True)):
            packed = arena.take(packed_size(kernels, outputs, site.inputs), kernels.dtype)
            pack_into(kernels, weight, packed)
            wide = None if bias is None else bias.to(torch.float32, copy=True)
            self._kept += [tensor for tensor in (packed, wide) if tensor is not None]
            self._packed.append(packed)
            self.struct.segment[place] = structs.Segment(
                address(packed), address(wide), outputs, site.offsets[place]
            )
        self._job = structs.Linear(site=address_of(self.struct))

    def job(self, activation: Activation = Activation.NONE) -> structs.Linear:
        """What of a call is the same for every input."""
        return structs.Linear(
            site=address_of(self.struct), activation=activation, runs=structs.Runs(site=self.site.index)
        )

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._kept)

    def weight(self, projection: int) -> Tensor:
        """A copy of a projection's weight, [outputs, inputs]."""
        outputs, inputs = self.site.outputs[projection], self.site.inputs
        return unpack(self._kernels, self._packed[projection], outputs, inputs).contiguous()

    def __call__(
        self,
        x: Tensor,
        *,
        out: Tensor | None = None,
        runs: LoraRuns | None = None,
        activation: Activation = Activation.NONE,
        softcap: float | None = None,
    ) -> Tensor:
        """X [rows, inputs] -> [rows, width]; activated, act(first projection) * second -> [rows, outputs].

        runs: adds what the adapters do. softcap: what comes of that becomes softcap * tanh(y / softcap). out: rows to write
        to, new ones unless given.
        """
        site, job = self.site, self._job
        width = site.outputs[0] if activation else site.width
        if activation and (len(site.outputs) != 2 or site.outputs[0] != site.outputs[1]):  # noqa: PLR2004 - gate, up
            raise ValueError(f"a gate needs two projections of one size, not {site.outputs}")
        if out is None:
            out = x.new_empty(x.shape[0], width)
        _fill(self._kernels, job, x, site.inputs, out, width, runs)
        job.activation, job.softcap = activation, softcap or 0.0
        if runs is None:
            job.runs.count = 0
        else:
            runs.fill(job.runs, site.index)
        if job.rows:
            self._kernels.linear(job)
        return out


def linear_bytes(kernels: Kernels, site: Site) -> int:
    """What a site's packed weights take of an arena."""
    return sum(packed_bytes(kernels, outputs, site.inputs) for outputs in site.outputs)


def _fill(  # noqa: PLR0917 - input and output, each with its width
    kernels: Kernels,
    job: structs.Linear,
    x: Tensor,
    inputs: int,
    y: Tensor,
    outputs: int,
    runs: LoraRuns | None,
) -> None:
    """Put a call's input and output into its job."""
    rows, job.x_stride = kernels.rows("x", x, inputs)
    y_rows, job.y_stride = kernels.rows("y", y, outputs)
    if y_rows != rows or (runs is not None and runs.rows != rows):
        whose = "" if runs is None else f", {runs.rows} in runs"
        raise ValueError(f"rows differ: {rows} in x, {y_rows} in y{whose}")
    job.rows = rows
    job.x = x.data_ptr()
    job.y = y.data_ptr()
    job.threads = kernels.threads
