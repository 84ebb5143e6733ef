"""The parts of an adapter that the native kernels compute."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.worker.engine.local.native.kernels import PackedAdapter, PackedLinear, RmsNorm, RotaryWriter


@dataclass(frozen=True, eq=False)
class NativeAdapter:
    """Packed for one model on the kernels. Calls of its parts must not overlap in time, as the engine's never do."""

    packed: PackedAdapter
    norms: Mapping[str, RmsNorm] = field(default_factory=dict)
    """Norms of its own, by path."""
    rotaries: Mapping[int, RotaryWriter] = field(default_factory=dict)
    """By layer, where it has query or key norms of its own."""
    head: PackedLinear | None = None
    """An output layer of its own."""

    @property
    def has_norms(self) -> bool:
        return bool(self.norms or self.rotaries)

    @property
    def nbytes(self) -> int:
        return (
            self.packed.nbytes
            + sum(norm.nbytes for norm in self.norms.values())
            + (0 if self.head is None else self.head.nbytes)
        )
