"""A loaded adapter: what turns a base's answers into its own."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from services.worker.engine.kernels import PackedAdapter


@dataclass(frozen=True)
class LoraPair:
    """The two factors of one module's delta x A^T B^T, in the engine's dtype."""

    a: Tensor
    """[rank, in]"""
    b: Tensor
    """[out, rank], the scale folded in."""


@dataclass(frozen=True, eq=False)
class LoadedAdapter:
    """An adapter's weights on the device, in the form that the engine's runner takes. Immutable."""

    digest: str
    pairs: Mapping[str, LoraPair]
    """By the path of the module they adapt; empty where they are packed."""
    nbytes: int
    packed: PackedAdapter | None = None
    """For the native kernels."""
