"""Whether an adapter's tensors fit the base: read off the header alone, before any weights are fetched.

The tensors decide which modules are adapted. Every one of them must be half of a complete pair.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from services.common.errors import InvalidFieldError
from services.registry.adapter_config import AdapterConfig
from services.registry.base_model import BaseModel, ModuleShape
from services.registry.safetensors_header import HeaderError, TensorEntry, parse_header

NAME = "adapter_model.safetensors"

_TENSOR = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<half>[AB])\.weight")
_DTYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class AdapterModules:
    """What the tensors adapt."""

    rank: int
    """The largest among the modules."""
    target_modules: tuple[str, ...]
    """Last parts of the adapted modules' paths, sorted."""


def check_header(header: bytes, *, file_size: int, config: AdapterConfig, base: BaseModel) -> AdapterModules:
    """Check the JSON header of an adapter's weights in full. Raises InvalidFieldError, naming the tensor."""
    try:
        tensors = parse_header(header, file_size=file_size)
    except HeaderError as error:
        raise not_safetensors(error) from None
    pairs = _pair_up(tensors)
    if not pairs:
        raise _invalid(NAME, "without tensors", "LoRA weights of at least one module")
    ranks = [_check_pair(path, halves, config, base) for path, halves in pairs.items()]
    return AdapterModules(max(ranks), tuple(sorted({path.rpartition(".")[2] for path in pairs})))


def not_safetensors(error: HeaderError) -> InvalidFieldError:
    """The refusal of a file whose header cannot be read."""
    return _invalid(NAME, str(error), "a whole safetensors file")


def _pair_up(tensors: Mapping[str, TensorEntry]) -> dict[str, dict[str, TensorEntry]]:
    pairs: dict[str, dict[str, TensorEntry]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise _invalid(
                f"{NAME}: tensor name",
                name,
                "base_model.model.<module path>.lora_A.weight or .lora_B.weight; nothing would use this tensor",
            )
        if tensor.dtype not in _DTYPES:
            raise _invalid(f"{NAME}: dtype of {name}", tensor.dtype, f"one of {', '.join(_DTYPES)}")
        pairs.setdefault(match["path"], {})[match["half"]] = tensor
    return pairs


def _check_pair(path: str, halves: Mapping[str, TensorEntry], config: AdapterConfig, base: BaseModel) -> int:
    shape = base.modules.get(path)
    if shape is None:
        raise _invalid(f"{NAME}: module", path, f"a module of base model {base.name}")
    last = path.rpartition(".")[2]
    if last not in base.target_modules:
        raise _invalid(
            f"{NAME}: module",
            path,
            f"one of {', '.join(base.target_modules)}, which this base lets be adapted",
        )
    for half, other in (("A", "B"), ("B", "A")):
        if half not in halves:
            raise _invalid(
                f"{NAME}: {path}.lora_{half}.weight",
                "missing",
                f"there, because lora_{other} is: a pair is applied whole",
            )
    rank = config.rank_of(path)
    _check_shape(path, "A", halves["A"], (rank, shape.in_features), shape)
    _check_shape(path, "B", halves["B"], (shape.out_features, rank), shape)
    return rank


def _check_shape(
    path: str, half: str, tensor: TensorEntry, expected: tuple[int, int], base_shape: ModuleShape
) -> None:
    if tensor.shape != expected:
        rank = expected[0 if half == "A" else 1]
        raise _invalid(
            f"{NAME}: shape of {path}.lora_{half}.weight",
            list(tensor.shape),
            f"{list(expected)}, for rank {rank} on a weight of [{base_shape.out_features}, {base_shape.in_features}]",
        )


def _invalid(field: str, value: object, bound: str) -> InvalidFieldError:
    return InvalidFieldError(field, value, bound, reason="ADAPTER_TENSORS_INVALID")
