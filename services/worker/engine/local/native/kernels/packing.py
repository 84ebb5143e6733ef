"""Packed matrices: what the kernels multiply with. csrc/microkernel.h has the order of their elements."""

import ctypes
import mmap
from typing import Any

import torch
from torch import Tensor

from services.worker.engine.local.native.kernels import structs
from services.worker.engine.local.native.kernels.library import Kernels

_HUGE_PAGE = 2 * 1024 * 1024
_ALIGNMENT = 64


class Arena:
    """Zeroed memory for many packed matrices, in huge pages where the system has them: streams of weights miss fewer
    address translations. It lives as long as a tensor of it does.
    """

    def __init__(self, nbytes: int) -> None:
        """Room for `nbytes`, each tensor rounded up to 64 bytes."""
        size = max(nbytes, 1)
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if size >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = torch.frombuffer(memory, dtype=torch.uint8)
        self._used = 0

    def take(self, count: int, dtype: torch.dtype) -> Tensor:
        """A tensor of `count` elements. Raises ValueError when the arena is too small."""
        nbytes = count * dtype.itemsize
        if self._used + nbytes > self._bytes.numel():
            raise ValueError(f"{nbytes} bytes asked for, {self._bytes.numel() - self._used} left")
        taken = self._bytes[self._used : self._used + nbytes].view(dtype)
        self._used += round_up(nbytes, _ALIGNMENT)
        return taken


def round_up(value: int, multiple: int) -> int:
    """The next multiple of `multiple`."""
    return -(-value // multiple) * multiple


def packed_size(kernels: Kernels, columns: int, depth: int) -> int:
    """Elements of a packed matrix [depth, columns]."""
    return round_up(columns, kernels.lanes) * round_up(depth, kernels.step)


def packed_bytes(kernels: Kernels, columns: int, depth: int) -> int:
    """What a packed matrix takes of an arena."""
    return round_up(packed_size(kernels, columns, depth) * kernels.dtype.itemsize, _ALIGNMENT)


def pack_into(kernels: Kernels, weight: Tensor, to: Tensor, *, column: int = 0) -> None:
    """Pack `weight` [columns, depth] into `to`, which is zero there, beginning at its column `column`."""
    if weight.dtype is not kernels.dtype or weight.dim() != 2:  # noqa: PLR2004 - a matrix
        raise ValueError(
            f"weight must be a matrix of {kernels.dtype}, not {list(weight.shape)} of {weight.dtype}"
        )
    if to.numel() < packed_size(kernels, column + weight.shape[0], weight.shape[1]):
        raise ValueError(f"{list(weight.shape)} at column {column} does not fit in {to.numel()} elements")
    job = structs.Pack(
        source=weight.data_ptr(),
        row_stride=weight.stride(0),
        column_stride=weight.stride(1),
        n=weight.shape[0],
        k=weight.shape[1],
        to=to.data_ptr(),
        to_column=column,
    )
    kernels.pack(job)


def unpack(kernels: Kernels, packed: Tensor, columns: int, depth: int) -> Tensor:
    """The matrix [columns, depth] that was packed; leading dimensions of `packed` stay in front."""
    lanes, step = kernels.lanes, kernels.step
    steps = round_up(depth, step) // step
    blocks = packed.unflatten(-1, (-1, steps, lanes, step))
    whole: Tensor = blocks.transpose(-3, -2).flatten(-2).flatten(-3, -2)
    matrix: Tensor = whole[..., :columns, :depth]
    return matrix


def address(tensor: Tensor | None) -> int:
    """A pointer for a struct; 0 is null."""
    return 0 if tensor is None else tensor.data_ptr()


def address_of(
    struct: ctypes.Structure | ctypes.Array[Any],
) -> int:  # Any: Array is invariant, so no common one
    """A pointer to a struct; the caller keeps the struct alive."""
    return ctypes.addressof(struct)
