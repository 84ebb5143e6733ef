"""The parts of an adapter that the native kernels compute."""

from dataclasses import dataclass

from services.worker.engine.local.native.kernels import PackedAdapter, PackedLinear


@dataclass(frozen=True, eq=False)
class NativeAdapter:
    """Packed for one model on the kernels. Calls of its parts must not overlap in time, as the engine's never do."""

    packed: PackedAdapter
    head: PackedLinear | None = None
    """An output layer of its own."""

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + (0 if self.head is None else self.head.nbytes)
