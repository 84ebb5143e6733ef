"""A loaded adapter: what turns a base's answers into its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from services.worker.engine.local.adapters.delta import Delta
from services.worker.engine.local.adapters.embedding import EmbeddingChange
from services.worker.engine.local.adapters.token_rows import TokenRows
from services.worker.engine.local.native.native_adapter import NativeAdapter


@dataclass(frozen=True, eq=False)
class AdapterWeights:
    """All that an adapter changes, by the path of the module, in torch's form and the engine's dtype."""

    deltas: Mapping[str, Delta] = field(default_factory=dict)
    """Of linear modules; the scale is folded into B."""
    replaced: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """Parameters by name that stand in for those of a norm or of the output layer."""
    embedding: EmbeddingChange | None = None
    output_rows: TokenRows | None = None
    """Rows of the output layer's weight that are the adapter's own."""

    def to(self, device: torch.device) -> "AdapterWeights":
        """The same on another device; tensors that are there already are shared."""
        return AdapterWeights(
            {path: delta.to(device) for path, delta in self.deltas.items()},
            {
                path: {name: tensor.to(device) for name, tensor in tensors.items()}
                for path, tensors in self.replaced.items()
            },
            None if self.embedding is None else self.embedding.to(device),
            None if self.output_rows is None else self.output_rows.to(device),
        )

    @property
    def nbytes(self) -> int:
        return (
            sum(delta.nbytes for delta in self.deltas.values())
            + sum(tensor.nbytes for tensors in self.replaced.values() for tensor in tensors.values())
            + (0 if self.embedding is None else self.embedding.nbytes)
            + (0 if self.output_rows is None else self.output_rows.nbytes)
        )


@dataclass(frozen=True, eq=False)
class LoadedAdapter:
    """An adapter in the form that the engine's runner takes. Immutable."""

    digest: str
    weights: AdapterWeights
    """Without what `native` has."""
    native: NativeAdapter | None = None
    """For the native kernels."""

    def to(self, device: torch.device) -> "LoadedAdapter":
        """The same on another device. What is packed for the CPU's kernels is never anywhere else."""
        return self if self.native is not None else replace(self, weights=self.weights.to(device))

    @property
    def nbytes(self) -> int:
        return self.weights.nbytes + (0 if self.native is None else self.native.nbytes)
