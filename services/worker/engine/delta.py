"""What an adapter does to one projection."""

from dataclasses import dataclass

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

    @property
    def nbytes(self) -> int:
        parts = (self.a, self.b, self.multiplier, self.bias)
        return sum(part.nbytes for part in parts if part is not None)
