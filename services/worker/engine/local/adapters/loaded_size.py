"""How much memory an adapter takes at most once it is loaded, told from the header of its file."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from services.common.adapters import tensor_names as names
from services.common.adapters.config import AdapterConfig
from services.common.adapters.refusals import WEIGHTS, tensors_invalid

# The kernels pack matrices in whole tiles, of this many rows and columns at most.
_TILE = 16
# Beside each row and column of a matrix: a scale, a multiplier or an index, of 8 bytes at most.
_BESIDE = 8


def most_bytes(folder: Path, config: AdapterConfig, dtype: torch.dtype, parts: Callable[[str], int]) -> int:
    """In `dtype`, in the form that takes most; `parts` is BaseWeights.parts.

    Raises InvalidFieldError for a file that is none. Names that nobody knows are left to the loader, which refuses them.
    """
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError) as error:
        raise tensors_invalid("", str(error), "a whole safetensors file") from None
    return sum(
        _most(shape, dtype.itemsize) * _times(*split, config, parts)
        for name, shape in shapes.items()
        if (split := names.split_name(name)) is not None
    )


def _times(path: str, part: str, config: AdapterConfig, parts: Callable[[str], int]) -> int:
    """How often what lies in the file once is kept."""
    if part in (names.WEIGHT, names.BASE_WEIGHT) and not config.saves(path):
        return 0  # a copy of the base's own, which is compared and let go
    if part == names.TOKEN_ROWS:
        return 2  # where the base ties embedding and output layer, for each of them
    return max(parts(path), 1) if part == names.A else 1


def _most(shape: list[int], itemsize: int) -> int:
    if len(shape) < 2:  # noqa: PLR2004  # a vector: of a norm, a bias, a magnitude; in float32
        return _BESIDE * math.prod(shape)
    tiles = math.prod(-(-size // _TILE) * _TILE for size in shape)
    return tiles * itemsize + _BESIDE * sum(shape)
