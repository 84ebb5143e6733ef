"""The compiled library in this process."""

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from services.common.logs import get_logger
from services.worker.engine.local.native.kernels import build, structs
from services.worker.engine.local.native.kernels.build import Isa, Mode

_log = get_logger(__name__)

_Call = Callable[[ctypes.Structure], None]
_FUNCTIONS = ("pack", "linear", "attention", "rope", "norm", "forward", "choose")


@dataclass(frozen=True, eq=False)
class Kernels:
    """The kernels for one dtype.

    Each function takes a struct of structs.py, whose pointers the caller has checked. They run on threads of their own,
    without the interpreter lock. Raises MemoryError where working memory or threads cannot be had.
    """

    mode: Mode
    dtype: torch.dtype
    isa: Isa
    threads: int
    """That a call uses, the calling one among them."""
    lanes: int
    """Columns of one block of a packed matrix."""
    step: int
    """Rows of a packed matrix that lie interleaved."""
    pack: _Call
    linear: _Call
    attention: _Call
    rope: _Call
    norm: _Call
    forward: _Call
    choose: _Call

    def rows(self, name: str, x: Tensor, columns: int) -> tuple[int, int]:
        """Rows and row stride of `x` [rows, columns]. Raises ValueError unless a kernel can read it."""
        shape, strides = x.shape, x.stride()
        if (
            x.dtype is self.dtype
            and len(shape) == 2  # noqa: PLR2004 - a matrix
            and shape[1] == columns
            and (strides[1] == 1 or columns == 1)
        ):
            return shape[0], strides[0]
        raise ValueError(
            f"{name} must be [rows, {columns}] of {self.dtype} with adjacent columns, "
            f"not {list(shape)} of {x.dtype} with strides {strides}"
        )


def load_kernels(
    dtype: torch.dtype, *, threads: int = 0, isa: Isa | None = None, mode: Mode | None = None
) -> Kernels | None:
    """The kernels for weights of `dtype`, for the best instructions that compile here; None, after warnings, where none do.

    threads: 0 takes as many as torch does. isa, mode: other than the best, for tests. Raises ValueError for a dtype that the kernels do not know.
    """
    if dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, not {dtype}")
    for one in [isa] if isa else build.usable_isas():
        library = _load(one)
        if library is not None:
            modes = tuple(found for found in one.modes if found.dtype is dtype)
            return _bind(library, one, mode or _best(modes), threads or torch.get_num_threads())
    return None


@functools.cache
def _load(isa: Isa) -> ctypes.CDLL | None:
    path = build.build(isa)
    if path is None:
        return None
    try:
        return _checked(ctypes.CDLL(str(path)), isa)
    except (OSError, AttributeError, ValueError) as error:
        _log.warning("kernels_not_loaded", path=str(path), reason=str(error))
        return None


def _checked(library: ctypes.CDLL, isa: Isa) -> ctypes.CDLL:
    """The library, which has every function and the structs that Python has. Raises AttributeError or ValueError."""
    for mode in isa.modes:
        for name in (*_FUNCTIONS, "lanes"):
            getattr(library, f"lm_{name}_{mode.name}")
        for struct in structs.ALL:
            size = getattr(library, f"lm_size_of_{struct.__name__}_{mode.name}")
            size.restype = ctypes.c_int64
            if size() != ctypes.sizeof(struct):
                raise ValueError(f"{struct.__name__} has {size()} bytes there, {ctypes.sizeof(struct)} here")
    return library


def _best(modes: tuple[Mode, ...]) -> Mode:
    """bfloat16 multiplies in two ways, of which CPUs do one or the other twice as fast (docs/performance.md).

    By the maker, and not by a stopwatch: the two round differently, and workers of one fleet must give a seeded request
    the same tokens on CPUs of one kind.
    """
    if len(modes) == 1:
        return modes[0]
    return build.DOT if _vendor() == "AuthenticAMD" else build.WIDENED


def _vendor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def _bind(library: ctypes.CDLL, isa: Isa, mode: Mode, threads: int) -> Kernels:
    def call(name: str) -> _Call:
        function = getattr(library, f"lm_{name}_{mode.name}")
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_int
        address_of: Callable[[Any], int] = ctypes.addressof  # Any: of every struct

        def run(job: ctypes.Structure) -> None:
            if function(address_of(job)):
                raise MemoryError("no working memory or no threads for a kernel")

        return run

    lanes = getattr(library, f"lm_lanes_{mode.name}")()
    step = 4 // mode.dtype.itemsize
    return Kernels(mode, mode.dtype, isa, threads, lanes, step, **{name: call(name) for name in _FUNCTIONS})
