"""Keys and values in blocks, as the torch form keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.engine.local.schedule.block_pool import NULL_BLOCK


@dataclass(frozen=True)
class KvShape:
    """What one token takes in one layer."""

    heads: int
    key_dim: int
    value_dim: int


class KvCache:
    """One pool of keys and one of values a layer: [blocks + 1, block_size, heads, dim]."""

    def __init__(
        self,
        shapes: Mapping[int, KvShape],
        *,
        blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.block_size = block_size
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        for layer, shape in shapes.items():
            for pools, dim in ((self._keys, shape.key_dim), (self._values, shape.value_dim)):
                # Untouched memory is free until a block is first written; only the null block has to be zero.
                pool = torch.empty(blocks + 1, block_size, shape.heads, dim, dtype=dtype, device=device)
                pool[NULL_BLOCK].zero_()
                pools[layer] = pool

    def slots(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer by slot, [slots, heads, dim]; slot = block * block_size + offset."""
        return self._keys[layer].flatten(0, 1), self._values[layer].flatten(0, 1)
