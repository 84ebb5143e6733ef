"""Decoder layers, and a step through all of them in one call."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.engine.local.native.kernels import structs
from services.worker.engine.local.native.kernels.attention import PagedAttention, RotaryWriter, SequenceBatch
from services.worker.engine.local.native.kernels.library import Kernels
from services.worker.engine.local.native.kernels.linear import Activation, PackedLinear
from services.worker.engine.local.native.kernels.packing import address_of
from services.worker.engine.local.native.kernels.rowwise import RmsNorm
from services.worker.engine.local.native.kernels.sites import LoraRuns


@dataclass(frozen=True, eq=False)
class DecoderLayer:
    """One layer's kernels, in the order of their calls."""

    input_norm: RmsNorm
    qkv: PackedLinear
    rotary: RotaryWriter
    attention: PagedAttention
    output: PackedLinear
    mlp_norm: RmsNorm
    gate_up: PackedLinear
    down: PackedLinear
    after_attention: RmsNorm | None = None
    """Of the attention's output, before it is added."""
    after_mlp: RmsNorm | None = None
    """Likewise of the MLP's."""
    turns: int = 0
    """Which of a step's turns the layer uses."""


class DecoderLayers:
    """All layers and the norm after them. Calls of one object must not overlap in time."""

    def __init__(
        self,
        kernels: Kernels,
        layers: Sequence[DecoderLayer],
        last_norm: RmsNorm,
        *,
        activation: Activation,
        rotary: int,
    ) -> None:
        """`layers`: at least one, all of one shape; `rotary`: how many numbers of a head turn."""
        self._kernels = kernels
        self._kept = (layers, last_norm)
        self._rotary = rotary
        self._kinds = 1 + max(layer.turns for layer in layers)
        self._layers = (structs.Layer * len(layers))(
            *(
                structs.Layer(
                    input_norm=layer.input_norm.job(),
                    qkv=layer.qkv.job(),
                    rope=layer.rotary.job(rotary),
                    attention=layer.attention.job(),
                    output=layer.output.job(),
                    after_attention=_job_of(layer.after_attention),
                    mlp_norm=layer.mlp_norm.job(),
                    gate_up=layer.gate_up.job(activation),
                    down=layer.down.job(),
                    after_mlp=_job_of(layer.after_mlp),
                    turns=layer.turns,
                )
                for layer in layers
            )
        )
        first = layers[0]
        self._cache = first.attention.cache
        self._hidden = first.qkv.site.inputs
        self._job = structs.Forward(
            layers=address_of(self._layers),
            count=len(layers),
            last_norm=last_norm.job(),
            hidden=self._hidden,
            qkv_width=first.qkv.site.width,
            attended_width=first.output.site.inputs,
            gated_width=first.down.site.inputs,
            threads=kernels.threads,
        )
        self._rooms = torch.empty(0, dtype=kernels.dtype)

    def __call__(
        self,
        residual: Tensor,
        *,
        turns: Sequence[tuple[Tensor, Tensor]],
        sequences: SequenceBatch,
        runs: LoraRuns | None,
    ) -> Tensor:
        """The embeddings [rows, hidden], which are used up -> [rows, hidden].

        turns: for each kind that the layers use, cos and sin [rows, rotary / 2] of float32.
        """
        job, rows = self._job, sequences.rows
        normed = torch.empty(rows, self._hidden, dtype=self._kernels.dtype)
        _check("residual", residual, (rows, self._hidden), self._kernels.dtype)
        if len(turns) != self._kinds:
            raise ValueError(f"the layers use {self._kinds} kinds of turns, not {len(turns)}")
        for cos, sin in turns:
            _check("cos", cos, (rows, self._rotary // 2), torch.float32)
            _check("sin", sin, (rows, self._rotary // 2), torch.float32)
        pointers = (structs.Turns * len(turns))(
            *(structs.Turns(cos.data_ptr(), sin.data_ptr()) for cos, sin in turns)
        )
        if runs is not None and runs.rows != rows:
            raise ValueError(f"rows differ: {rows} in sequences, {runs.rows} in runs")
        self._cache.check(sequences)
        self._take_rooms(rows)
        job.rows, job.residual, job.normed = rows, residual.data_ptr(), normed.data_ptr()
        job.turns, job.slots = address_of(pointers), sequences.slots.data_ptr()
        job.sequences = sequences.struct
        job.run_count = 0
        if runs is not None:
            filled = structs.Runs()
            runs.fill(filled, 0)
            job.run, job.run_count, job.run_width = filled.run, filled.count, filled.width
        if rows:
            self._kernels.forward(job)
        return normed

    def _take_rooms(self, rows: int) -> None:
        """Working memory for so many rows; kept for the next step."""
        job = self._job
        widths = (job.hidden, job.qkv_width, job.attended_width, job.gated_width)
        if self._rooms.numel() < rows * sum(widths):
            self._rooms = torch.empty(rows * sum(widths), dtype=self._kernels.dtype)
        places = [self._rooms.data_ptr()]
        for width in widths:
            places.append(places[-1] + rows * width * self._kernels.dtype.itemsize)
        job.added, job.qkv, job.attended, job.gated = places[:-1]


def _job_of(norm: RmsNorm | None) -> structs.Norm:
    return structs.Norm() if norm is None else norm.job()


def _check(name: str, tensor: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> None:
    if tensor.shape != shape or tensor.dtype is not dtype or not tensor.is_contiguous():
        raise ValueError(
            f"{name} must be {list(shape)} of {dtype}, not {list(tensor.shape)} of {tensor.dtype}"
        )
