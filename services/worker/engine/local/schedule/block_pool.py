"""Who holds which block of the cache, and which blocks still hold what somebody may ask for again.

A full block is known by the tokens in it and the block before it, back to a root; the root names the account and the
adapter version, so nothing is ever shared across either. The base's commit is not in it: a pool lives and dies with
one base. Keys hold the tokens themselves, so no two prefixes are ever taken for each other.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

NULL_BLOCK = 0
"""Never allocated and always zero: what padding of a block table points at."""

Root = tuple[str, str]
"""Account and adapter digest; an empty digest is the base."""


@dataclass(frozen=True, eq=False)
class CachedBlock:
    """A full block whose keys and values are computed. Compared by identity: one that comes after an eviction is another."""

    block: int
    key: "tuple[CachedBlock | Root, tuple[int, ...]]"


class BlockPool:
    """Hands out block numbers 1 to `blocks`. Block 0 is the null block.

    A block that nobody holds is free, or idle: it keeps what it holds until its place is needed, the least recently
    released first.
    """

    def __init__(self, blocks: int, block_size: int, *, prefix_cache: bool = True) -> None:
        self.block_size = block_size
        self.total = blocks
        self._prefix_cache = prefix_cache
        self._free = list(range(blocks, NULL_BLOCK, -1))
        self._holders = [0] * (blocks + 1)
        self._cached: dict[tuple[CachedBlock | Root, tuple[int, ...]], CachedBlock] = {}
        self._by_block: dict[int, CachedBlock] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def free(self) -> int:
        """Blocks that can be had: empty ones, and those that hold what nobody uses."""
        return len(self._free) + len(self._idle)

    @property
    def cached(self) -> int:
        """Blocks that a prefix may be found in."""
        return len(self._by_block)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks `tokens` tokens take."""
        return -(-tokens // self.block_size)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks; the caller has checked that they are free. Raises ValueError otherwise."""
        if count > self.free:
            raise ValueError(f"{count} blocks asked for, {self.free} free")
        taken = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """Give blocks back. Raises ValueError for one that is free already: two sequences would share it."""
        # A prefix's end first, so that it is evicted before what it follows.
        for block in reversed(blocks):
            if block == NULL_BLOCK or not self._holders[block]:
                raise ValueError(f"block {block} is not allocated")
            self._holders[block] -= 1
            if not self._holders[block]:
                if block in self._by_block:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def take_prefix(self, root: Root, tokens: Sequence[int]) -> list[CachedBlock]:
        """Hold the blocks of the longest cached prefix, never all of `tokens`: the last one has to be computed."""
        found: list[CachedBlock] = []
        parent: CachedBlock | Root = root
        for end in range(self.block_size, len(tokens), self.block_size):
            cached = self._cached.get((parent, tuple(tokens[end - self.block_size : end])))
            if cached is None:
                break
            found.append(cached)
            parent = cached
        for cached in found:
            self._holders[cached.block] += 1
            self._idle.pop(cached.block, None)
        return found

    def publish(self, parent: CachedBlock | Root, block: int, tokens: Sequence[int]) -> CachedBlock | None:
        """Let a held, full block be found. Where the same is cached already, that stays, and is returned."""
        if not self._prefix_cache:
            return None
        key = (parent, tuple(tokens))
        cached = self._cached.get(key)
        if cached is None:
            cached = self._cached[key] = self._by_block[block] = CachedBlock(block, key)
        return cached

    def forget(self, blocks: Sequence[int]) -> None:
        """Let what these held blocks contain be found no more."""
        for block in blocks:
            cached = self._by_block.pop(block, None)
            if cached is not None:
                del self._cached[cached.key]

    def _evict(self) -> int:
        block, _ = self._idle.popitem(last=False)
        self.forget([block])
        return block
