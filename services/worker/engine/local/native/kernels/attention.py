"""Attention over keys and values in blocks, and rotary embedding on the way there."""

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from services.worker.engine.local.native.kernels import structs
from services.worker.engine.local.native.kernels.library import Kernels
from services.worker.engine.local.native.kernels.packing import Arena, address, round_up, unpack


class SequenceBatch:
    """The sequences of a step: their rows, which follow one another, and where their contexts lie."""

    def __init__(
        self,
        lengths: Sequence[int],
        contexts: Sequence[int],
        blocks: Sequence[Sequence[int]],
        *,
        block_size: int,
    ) -> None:
        """lengths: rows of each in this step; contexts: positions of each, those rows included; blocks: of each, in order,
        and fastest as an array of C ints.

        Raises ValueError where rows or blocks do not fit a context.
        """
        for length, context, held in zip(lengths, contexts, blocks, strict=True):
            if not 1 <= length <= context <= len(held) * block_size:
                raise ValueError(f"{length} rows, {context} positions, {len(held)} blocks of {block_size}")
        self.block_size = block_size
        self.rows = sum(lengths)
        length_of = torch.tensor(lengths, dtype=torch.int32)
        self._first_rows = _starts(length_of)
        self._contexts = torch.tensor(contexts, dtype=torch.int32)
        self._first_blocks = _starts(torch.tensor([len(held) for held in blocks], dtype=torch.int32))
        # One sequence's after the other's: a rectangle would have all the room of the longest for each.
        flat = array("i")
        for held in blocks:
            flat.extend(held)
        self._blocks = (
            torch.frombuffer(flat, dtype=torch.int32) if flat else torch.empty(0, dtype=torch.int32)
        )
        self.highest_block = int(self._blocks.max()) if flat else 0
        owner = torch.repeat_interleave(torch.arange(len(lengths)), length_of)
        self.positions = torch.arange(self.rows) + (self._contexts - length_of - self._first_rows[:-1])[owner]
        """Of each row, int64."""
        held_by = self._blocks[self._first_blocks[owner] + self.positions // block_size]
        self.slots = held_by.long() * block_size + self.positions % block_size
        """Where each row's key and value go, block * block_size + offset, int64."""
        self.struct = structs.Sequences(
            address(self._first_rows),
            address(self._contexts),
            address(self._first_blocks),
            address(self._blocks),
            len(lengths),
        )


class PackedCache:
    """The keys and values of one layer. Inside a block every head is a packed matrix; only the kernels read it.

    Whole blocks may be copied: keys and values are [blocks, kv_heads, elements of a head].
    """

    def __init__(
        self, kernels: Kernels, *, blocks: int, block_size: int, kv_heads: int, key_dim: int, value_dim: int
    ) -> None:
        """Memory is taken as blocks are first written. Raises ValueError unless block_size is a multiple of 16."""
        if block_size <= 0 or block_size % 16:
            raise ValueError(f"block_size must be a multiple of 16, not {block_size}")
        self.kernels = kernels
        self.blocks = blocks
        self.block_size = block_size
        self.kv_heads = kv_heads
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.keys = self._pool(block_size * round_up(key_dim, kernels.step))
        self.values = self._pool(block_size * round_up(value_dim, kernels.lanes))
        self.struct = structs.Cache(
            address(self.keys), address(self.values), block_size, kv_heads, key_dim, value_dim
        )

    def _pool(self, elements: int) -> Tensor:
        count = self.blocks * self.kv_heads * elements
        pool = Arena(count * self.kernels.dtype.itemsize).take(count, self.kernels.dtype)
        return pool.view(self.blocks, self.kv_heads, elements)

    def check(self, sequences: SequenceBatch) -> None:
        """Raises ValueError for blocks that are not there."""
        if sequences.block_size != self.block_size or sequences.highest_block >= self.blocks:
            raise ValueError(
                f"block {sequences.highest_block} of size {sequences.block_size} "
                f"is not one of {self.blocks} of size {self.block_size}"
            )

    def write(self, k: Tensor, v: Tensor, slots: Tensor) -> None:
        """Put keys and values [rows, kv_heads, dim] where `slots` says. Rows of one sequence must be in order."""
        self.kernels.rope(self.job(k, v, slots))

    def job(self, k: Tensor, v: Tensor, slots: Tensor) -> structs.Rope:
        """A job that writes and turns nothing."""
        rows = k.shape[0]
        _check_heads(self.kernels, "k", k, (rows, self.kv_heads, self.key_dim))
        _check_heads(self.kernels, "v", v, (rows, self.kv_heads, self.value_dim))
        if slots.dtype is not torch.int64 or slots.shape != (rows,) or not slots.is_contiguous():
            raise ValueError(
                f"slots must be [{rows}] of torch.int64, not {list(slots.shape)} of {slots.dtype}"
            )
        return structs.Rope(
            cache=self.struct,
            k=k.data_ptr(),
            k_stride=k.stride(0),
            k_head=k.stride(1),
            v=v.data_ptr(),
            v_stride=v.stride(0),
            v_head=v.stride(1),
            slots=slots.data_ptr(),
            rows=rows,
            threads=self.kernels.threads,
        )

    def unpacked(self) -> tuple[Tensor, Tensor]:
        """Copies, [blocks, block_size, kv_heads, dim]: for tests and torch forms."""
        keys = unpack(self.kernels, self.keys, self.block_size, self.key_dim)
        values = unpack(self.kernels, self.values, self.value_dim, self.block_size)
        return keys.transpose(1, 2).contiguous(), values.permute(0, 3, 1, 2).contiguous()


class PagedAttention:
    """One layer's attention. Calls of one object must not overlap in time."""

    def __init__(
        self,
        cache: PackedCache,
        heads: int,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> None:
        """scale: of the scores; window: latest positions that a query sees, its own included; softcap: scores become
        softcap * tanh(score / softcap). Raises ValueError unless key heads divide query heads.
        """
        if heads % cache.kv_heads:
            raise ValueError(f"{heads} query heads cannot share {cache.kv_heads} key heads")
        self.cache = cache
        self._heads = heads
        self._options = {"window": window or 0, "scale": scale, "softcap": softcap or 0.0}
        self._job = self.job()

    def job(self) -> structs.Attention:
        """What of a call is the same for every input."""
        return structs.Attention(cache=self.cache.struct, heads=self._heads, **self._options)

    def __call__(self, q: Tensor, sequences: SequenceBatch, *, out: Tensor | None = None) -> Tensor:
        """Q [rows, heads, key_dim] -> [rows, heads * value_dim]. The rows' own keys and values are in the cache already."""
        cache, job, kernels = self.cache, self._job, self.cache.kernels
        _check_heads(kernels, "q", q, (sequences.rows, self._heads, cache.key_dim))
        cache.check(sequences)
        if out is None:
            out = q.new_empty(sequences.rows, self._heads * cache.value_dim)
        job.q, job.q_stride, job.q_head = q.data_ptr(), q.stride(0), q.stride(1)
        rows, job.out_stride = kernels.rows("out", out, self._heads * cache.value_dim)
        if rows != sequences.rows:
            raise ValueError(f"out must have {sequences.rows} rows, not {rows}")
        job.out = out.data_ptr()
        job.sequences = sequences.struct
        job.threads = kernels.threads
        if sequences.rows:
            kernels.attention(job)
        return out


class RotaryWriter:
    """Turns queries in place, and keys on their way into the cache together with values."""

    def __init__(
        self,
        cache: PackedCache,
        heads: int,
        *,
        q_norm: Tensor | None = None,
        k_norm: Tensor | None = None,
        eps: float = 0.0,
    ) -> None:
        """q_norm, k_norm: weights [key_dim] of an RMSNorm over each head before it is turned, as Qwen 3 and Gemma 3 have."""
        self._cache = cache
        self._heads = heads
        self._q_norm, self._k_norm = (
            None if norm is None else norm.to(torch.float32, copy=True) for norm in (q_norm, k_norm)
        )
        self._eps = eps

    def job(self, rotary: int) -> structs.Rope:
        """What of a call is the same for every input, of which the first `rotary` numbers of a head turn."""
        return structs.Rope(
            cache=self._cache.struct,
            q_norm=address(self._q_norm),
            k_norm=address(self._k_norm),
            eps=self._eps,
            heads=self._heads,
            rotary=rotary,
        )

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, cos: Tensor, sin: Tensor, slots: Tensor) -> None:
        """Q [rows, heads, key_dim], k and v [rows, kv_heads, dim]; cos and sin [rows, rotary / 2] of float32.

        The first `rotary` numbers of a head turn, in halves as Llama's do.
        """
        cache, rows = self._cache, q.shape[0]
        _check_heads(cache.kernels, "q", q, (rows, self._heads, cache.key_dim))
        for name, given in (("cos", cos), ("sin", sin)):
            if (
                given.dtype is not torch.float32
                or given.shape != (rows, cos.shape[1])
                or not given.is_contiguous()
            ):
                raise ValueError(
                    f"{name} must be [{rows}, rotary / 2] of torch.float32, not {list(given.shape)}"
                )
        if 2 * cos.shape[1] > cache.key_dim:
            raise ValueError(f"{2 * cos.shape[1]} numbers cannot turn in a head of {cache.key_dim}")
        job = cache.job(k, v, slots)
        job.q, job.q_stride, job.q_head = q.data_ptr(), q.stride(0), q.stride(1)
        job.cos, job.sin = cos.data_ptr(), sin.data_ptr()
        own = self.job(2 * cos.shape[1])
        job.q_norm, job.k_norm, job.eps = own.q_norm, own.k_norm, own.eps
        job.heads, job.rotary = own.heads, own.rotary
        cache.kernels.rope(job)


def _starts(counts: Tensor) -> Tensor:
    """Counts [n] -> where each begins when they follow one another, and the end of all, [n + 1] of int32."""
    starts = torch.zeros(len(counts) + 1, dtype=torch.int32)
    torch.cumsum(counts, 0, out=starts[1:])
    return starts


def _check_heads(kernels: Kernels, name: str, x: Tensor, shape: tuple[int, int, int]) -> None:
    if x.dtype is not kernels.dtype or x.shape != shape or x.stride(2) != 1:
        raise ValueError(
            f"{name} must be {list(shape)} of {kernels.dtype} with adjacent numbers in a head, "
            f"not {list(x.shape)} of {x.dtype} with strides {x.stride()}"
        )
