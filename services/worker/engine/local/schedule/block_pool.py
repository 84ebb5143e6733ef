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
    account: str


class BlockPool:
    """Hands out block numbers 1 to `blocks`. Block 0 is the null block.

    A block that nobody holds is free, or idle: it keeps what it holds until its place is needed. Then the account with
    the most idle blocks gives one up, the one it released least recently: however many prompts an account sends, what
    others keep stays, up to an equal share (max-min fairness).
    """

    def __init__(self, blocks: int, block_size: int, *, prefix_cache: bool = True) -> None:
        self.block_size = block_size
        self.total = blocks
        self._prefix_cache = prefix_cache
        self._free = list(range(blocks, NULL_BLOCK, -1))
        self._holders = [0] * (blocks + 1)
        self._cached: dict[tuple[CachedBlock | Root, tuple[int, ...]], CachedBlock] = {}
        self._by_block: dict[int, CachedBlock] = {}
        self._idle: dict[str, OrderedDict[int, None]] = {}
        """By account, least recently released first; no account that has none is here."""
        self._idle_count = 0

    @property
    def free(self) -> int:
        """Blocks that can be had: empty ones, and those that hold what nobody uses."""
        return len(self._free) + self._idle_count

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
                cached = self._by_block.get(block)
                if cached is not None:
                    self._idle.setdefault(cached.account, OrderedDict())[block] = None
                    self._idle_count += 1
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
            if not self._holders[cached.block]:
                self._no_longer_idle(cached)
            self._holders[cached.block] += 1
        return found

    def publish(self, parent: CachedBlock | Root, block: int, tokens: Sequence[int]) -> CachedBlock | None:
        """Let a held, full block be found. Where the same is cached already, that stays, and is returned."""
        if not self._prefix_cache:
            return None
        key = (parent, tuple(tokens))
        cached = self._cached.get(key)
        if cached is None:
            account = parent.account if isinstance(parent, CachedBlock) else parent[0]
            cached = self._cached[key] = self._by_block[block] = CachedBlock(block, key, account)
        return cached

    def forget(self, blocks: Sequence[int]) -> None:
        """Let what these held blocks contain be found no more."""
        for block in blocks:
            cached = self._by_block.pop(block, None)
            if cached is not None:
                del self._cached[cached.key]

    def _evict(self) -> int:
        # Of accounts with as many, the one that has had idle blocks for longest.
        idle = max(self._idle.values(), key=len)
        block = next(iter(idle))
        self._no_longer_idle(self._by_block[block])
        self.forget([block])
        return block

    def _no_longer_idle(self, cached: CachedBlock) -> None:
        idle = self._idle[cached.account]
        del idle[cached.block]
        self._idle_count -= 1
        if not idle:
            del self._idle[cached.account]
