"""How much memory an adapter takes at most once it is loaded, told from the header of its file."""

import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from services.common.adapters.refusals import WEIGHTS, tensors_invalid

# The kernels pack matrices in whole tiles, of this many rows and columns at most.
_TILE = 16
# Beside each row and column of a matrix: a scale, a multiplier or an index, of 8 bytes at most.
_BESIDE = 8


def most_bytes(folder: Path, dtype: torch.dtype) -> int:
    """In `dtype`, in the form that takes most. Raises InvalidFieldError for a file that is none."""
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError) as error:
        raise tensors_invalid("", str(error), "a whole safetensors file") from None
    return sum(_most(shape, dtype.itemsize) for shape in shapes)


def _most(shape: list[int], itemsize: int) -> int:
    if len(shape) < 2:  # noqa: PLR2004  # a vector: of a norm, a bias, a magnitude; in float32
        return _BESIDE * math.prod(shape)
    tiles = math.prod(-(-size // _TILE) * _TILE for size in shape)
    return tiles * itemsize + _BESIDE * sum(shape)
