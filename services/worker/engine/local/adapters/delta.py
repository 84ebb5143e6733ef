"""What an adapter does to one projection."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Delta:
    """y = (y + scale x A^T B^T) * multiplier + bias, y being the base's output with its own bias."""

    a: Tensor | None = None
    """[rank, inputs]; without A and B only multiplier and bias apply."""
    b: Tensor | None = None
    """[outputs, rank]"""
    scale: float = 1.0
    multiplier: Tensor | None = None
    """[outputs] in float32; DoRA's magnitude over norm."""
    bias: Tensor | None = None
    """[outputs] in float32, added last."""

    @property
    def rank(self) -> int:
        return 0 if self.a is None else self.a.shape[0]

    def to(self, device: torch.device) -> "Delta":
        return Delta(
            _move(self.a, device),
            _move(self.b, device),
            self.scale,
            _move(self.multiplier, device),
            _move(self.bias, device),
        )

    @property
    def nbytes(self) -> int:
        parts = (self.a, self.b, self.multiplier, self.bias)
        return sum(part.nbytes for part in parts if part is not None)


def _move(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
