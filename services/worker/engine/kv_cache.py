"""Keys and values in blocks: who owns which block, and the tensors behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NULL_BLOCK = 0
"""Never allocated and always zero: what padding of a block table points at."""


class BlockAllocator:
    """Hands out block numbers 1 to `blocks`. Block 0 is the null block."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.total = blocks
        self._free = list(range(blocks, NULL_BLOCK, -1))
        self._is_free = [False] + [True] * blocks

    @property
    def free(self) -> int:
        return len(self._free)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks `tokens` tokens take."""
        return -(-tokens // self.block_size)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks; the caller has checked that they are free. Raises ValueError otherwise."""
        if count > self.free:
            raise ValueError(f"{count} blocks asked for, {self.free} free")
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._is_free[block] = False
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """Give blocks back. Raises ValueError for one that is free already: two sequences would share it."""
        for block in blocks:
            if block == NULL_BLOCK or self._is_free[block]:
                raise ValueError(f"block {block} is not allocated")
            self._is_free[block] = True
            self._free.append(block)


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
