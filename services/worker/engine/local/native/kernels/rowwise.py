"""What works on one row at a time: RMSNorm."""

import torch
from torch import Tensor

from services.worker.engine.local.native.kernels import structs
from services.worker.engine.local.native.kernels.library import Kernels
from services.worker.engine.local.native.kernels.packing import address


class RmsNorm:
    """y = x / sqrt(mean(x^2) + eps) * weight."""

    def __init__(self, kernels: Kernels, weight: Tensor, eps: float, *, offset: float = 0.0) -> None:
        """Weight [n]; offset is added to it (Gemma's weights are kept less one)."""
        self._kernels = kernels
        self._weight = weight.to(torch.float32) + offset
        self._eps = eps
        self._job = self.job()

    def job(self) -> structs.Norm:
        """What of a call is the same for every input."""
        return structs.Norm(weight=address(self._weight), eps=self._eps, n=self._weight.numel())

    @property
    def nbytes(self) -> int:
        return self._weight.nbytes

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
        job.threads = self._kernels.threads
        self._kernels.norm(job)
        return out


def _check_same_rows(rows: int, others: int) -> None:
    if rows != others:
        raise ValueError(f"all must have {rows} rows, not {others}")
