"""What works on one row at a time: RMSNorm, and the norms that an adapter brings."""

import ctypes
from collections.abc import Mapping, Sequence

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

    def __call__(self, x: Tensor, *, residual: Tensor | None = None) -> Tensor:
        """X [rows, n] -> [rows, n]. With a residual, `residual` becomes residual + x and is what is normed."""
        job, n = self._job, self._weight.numel()
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        job.rows, job.x_stride = self._kernels.rows("x", x, n)
        job.y_stride = n
        if residual is not None:
            rows, job.residual_stride = self._kernels.rows("residual", residual, n)
            if rows != job.rows:
                raise ValueError(f"all must have {job.rows} rows, not {rows}")
        job.x, job.y, job.residual = x.data_ptr(), out.data_ptr(), address(residual)
        job.threads = self._kernels.threads
        self._kernels.norm(job)
        return out


class OwnNorms:
    """The weights of an adapter's own norms in all layers of a decoder. Immutable."""

    def __init__(self, layers: Sequence[Mapping[str, Tensor]], *, offset: float = 0.0) -> None:
        """`layers`: weights [n] by the fields of structs.LayerNorms, and after them one more, whose input norm follows
        all layers; offset is added, as RmsNorm does. Lengths have been checked.
        """
        self._kept = [
            {name: weight.to(torch.float32) + offset for name, weight in norms.items()} for norms in layers
        ]
        self.layers: ctypes.Array[structs.LayerNorms] = (structs.LayerNorms * len(layers))()
        for layer, norms in zip(self.layers, self._kept, strict=True):
            for name, weight in norms.items():
                setattr(layer, name, address(weight))
        self.nbytes = sum(weight.nbytes for norms in self._kept for weight in norms.values())
