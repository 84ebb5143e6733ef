"""Kernels for tests: every way of multiplying that this machine has, and what it may be off by."""

import functools
import shutil

import pytest
import torch
from torch import Tensor

from services.worker.engine.local.native.kernels import Kernels, load_kernels
from services.worker.engine.local.native.kernels.build import Isa, Mode, usable_isas

WAYS = [
    pytest.param((isa, mode), id=f"{isa.name}-{mode.name}") for isa in usable_isas() for mode in isa.modes
]
"""Every way of multiplying that this CPU can run, those of lesser machines among them; for parametrizing."""


# More than this machine may have cores, and not a divisor of most numbers of tasks.
_THREADS = 3


@functools.cache
def kernels_of(way: tuple[Isa, Mode]) -> Kernels:
    isa, mode = way
    kernels = load_kernels(mode.dtype, threads=_THREADS, isa=isa, mode=mode)
    if kernels is None:
        # What does not compile where there is a compiler is a defect, and must not look like a machine without one.
        has_compiler = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
        assert not has_compiler, "the kernels do not compile"
        pytest.skip("no C++ compiler here")
    return kernels


def random(kernels: Kernels, *shape: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return (torch.randn(*shape, generator=generator) * spread).to(kernels.dtype)


def assert_near(kernels: Kernels, got: Tensor, expected: Tensor, *, roundings: int = 1) -> None:
    """Equal to 1e-5 in float32; in bfloat16, to `roundings` roundings of numbers as large as any in the row."""
    assert got.shape == expected.shape
    scale = expected.abs().amax(dim=-1, keepdim=True).clamp_min(1e-3)
    unit = 1e-5 if kernels.dtype is torch.float32 else 2**-8 * roundings
    worst = float(((got.float() - expected).abs() / scale).max()) if got.numel() else 0.0
    assert worst <= unit, f"off by {worst:.2e} of the row's largest, {unit:.2e} allowed"
