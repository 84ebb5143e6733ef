"""What works on one row at a time: RMSNorm, the gate of an MLP, the likeliest token."""

import torch
from torch import Tensor

from services.worker.engine.kernels import structs
from services.worker.engine.kernels.library import Kernels
from services.worker.engine.kernels.linear import Activation
from services.worker.engine.kernels.packing import address


class RmsNorm:
    """y = x / sqrt(mean(x^2) + eps) * weight."""

    def __init__(self, kernels: Kernels, weight: Tensor, eps: float, *, offset: float = 0.0) -> None:
        """Weight [n]; offset is added to it (Gemma's weights are kept less one)."""
        self._kernels = kernels
        self._weight = weight.to(torch.float32) + offset
        self._job = structs.Norm(weight=address(self._weight), eps=eps, n=weight.numel())

    def __call__(self, x: Tensor, *, residual: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """X [rows, n] -> [rows, n]. With a residual, `residual` becomes residual + x and is what is normed."""
        job, n = self._job, self._weight.numel()
        out = torch.empty_like(x) if out is None else out
        job.rows, job.x_stride = self._kernels.rows("x", x, n)
        rows, job.y_stride = self._kernels.rows("out", out, n)
        _check_same_rows(job.rows, rows)
        if residual is not None:
            rows, job.residual_stride = self._kernels.rows("residual", residual, n)
            _check_same_rows(job.rows, rows)
        job.x, job.y, job.residual = x.data_ptr(), out.data_ptr(), address(residual)
        job.threads = torch.get_num_threads()
        self._kernels.norm(job)
        return out


def gate(kernels: Kernels, gate_up: Tensor, activation: Activation, *, out: Tensor | None = None) -> Tensor:
    """gate_up [rows, 2 n] -> act(first half) * second half, [rows, n]."""
    n = gate_up.shape[1] // 2
    out = gate_up.new_empty(gate_up.shape[0], n) if out is None else out
    rows, stride = kernels.rows("gate_up", gate_up, 2 * n)
    out_rows, out_stride = kernels.rows("out", out, n)
    _check_same_rows(rows, out_rows)
    kernels.gate(
        structs.Gate(
            gate=gate_up.data_ptr(),
            up=gate_up.data_ptr() + n * kernels.dtype.itemsize,
            stride=stride,
            y=out.data_ptr(),
            y_stride=out_stride,
            rows=rows,
            n=n,
            activation=activation,
            threads=torch.get_num_threads(),
        )
    )
    return out


def argmax(kernels: Kernels, logits: Tensor) -> Tensor:
    """Logits [rows, n] -> the first largest of each row, [rows] of int64; -1 for a row that holds NaN."""
    rows, stride = kernels.rows("logits", logits, logits.shape[1])
    found = torch.empty(rows, dtype=torch.int64)
    kernels.argmax(
        structs.Argmax(
            x=logits.data_ptr(),
            x_stride=stride,
            index=found.data_ptr(),
            rows=rows,
            n=logits.shape[1],
            threads=torch.get_num_threads(),
        )
    )
    return found


def _check_same_rows(rows: int, others: int) -> None:
    if rows != others:
        raise ValueError(f"all must have {rows} rows, not {others}")
