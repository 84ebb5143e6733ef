"""The compiled library in this process."""

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from services.common.logs import get_logger
from services.worker.engine.local.native.kernels import build
from services.worker.engine.local.native.kernels.build import Isa, Mode

_log = get_logger(__name__)

_Call = Callable[[ctypes.Structure], None]
_FUNCTIONS = ("pack", "linear", "attention", "rope", "norm", "forward", "argmax")
_MEASURED_PRODUCTS = 40


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
    argmax: _Call

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
    """The kernels for weights of `dtype`, compiled first where needed; None, after one warning, where that fails.

    threads: 0 takes as many as torch does. isa, mode: other than the best, for tests. Raises ValueError for a dtype that the kernels do not know.
    """
    isa = isa or build.usable_isas()[0]
    modes = [one for one in isa.modes if one.dtype is dtype]
    if not modes:
        raise ValueError(f"dtype must be torch.float32 or torch.bfloat16, not {dtype}")
    library = _load(isa)
    if library is None:
        return None
    threads = threads or torch.get_num_threads()
    return _bind(library, isa, mode or _fastest(library, tuple(modes)), threads)


@functools.cache
def _load(isa: Isa) -> ctypes.CDLL | None:
    path = build.build(isa)
    if path is None:
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        _log.warning("kernels_not_loaded", path=str(path), reason=str(error))
        return None


def _fastest(library: ctypes.CDLL, modes: tuple[Mode, ...]) -> Mode:
    """bfloat16 multiplies in two ways, and CPUs differ in which is faster, by a factor of two either way."""
    return min(modes, key=lambda mode: _seconds(library, mode)) if len(modes) > 1 else modes[0]


@functools.cache
def _seconds(library: ctypes.CDLL, mode: Mode) -> float:
    measure = getattr(library, f"lm_seconds_{mode.name}")
    measure.argtypes, measure.restype = [ctypes.c_int64], ctypes.c_double
    # The least of several: whatever else ran in between only adds.
    return min(float(measure(_MEASURED_PRODUCTS)) for _ in range(20))


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
