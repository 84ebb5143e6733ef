"""Which tensors PEFT 0.21 writes for a module of an adapter, and in which shapes.

After peft/utils/save_and_load.py, the wrappers in peft/utils/other.py, and _get_learnable_bias_state_dict in
peft/tuners/tuners_utils.py.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.registry.admission.base_rules import AdapterConfig
from services.registry.bases.base_model import BaseModule, ModuleKind

_A, _B, _B_BIAS = "lora_A.weight", "lora_B.weight", "lora_B.bias"
_EMBEDDING_A, _EMBEDDING_B = "lora_embedding_A", "lora_embedding_B"
_MAGNITUDE = "lora_magnitude_vector"
_ROWS = "token_adapter.trainable_tokens_delta"
_BASE_WEIGHT, _BASE_BIAS = "base_layer.weight", "base_layer.bias"
_WEIGHT, _BIAS = "weight", "bias"

GOES_WITH: Mapping[str, str] = {
    _A: "LoRA on a linear module or the output layer",
    _B: "LoRA on a linear module or the output layer",
    _B_BIAS: "lora_bias and LoRA on a linear module or the output layer",
    _EMBEDDING_A: "LoRA on the input embedding",
    _EMBEDDING_B: "LoRA on the input embedding",
    _MAGNITUDE: "use_dora and LoRA on this module",
    _ROWS: "trainable_token_indices that name this module",
    _BASE_WEIGHT: "LoRA on the input embedding or the output layer",
    _BASE_BIAS: "bias 'all' or 'lora_only', LoRA on this module, and a bias of the base",
    _WEIGHT: "modules_to_save that name this module",
    _BIAS: "modules_to_save that name this module, or bias 'all', and a bias of the base",
}
"""What each part of a name belongs to. There are no others."""

_NAME = re.compile(
    # The shortest path, so that the longest part matches: `x.lora_A.weight` is not `weight` of `x.lora_A`.
    rf"base_model\.model\.(?P<path>.+?)\.(?P<part>{'|'.join(re.escape(part) for part in GOES_WITH)})"
)


@dataclass(frozen=True)
class Slot:
    """A tensor that belongs into the file."""

    shape: tuple[int, ...]
    origin: str
    """Where the shape comes from: `for rank 4 on a weight of [16, 8]`."""
    required: bool = True


def split_name(name: str) -> tuple[str, str] | None:
    """Path of the module and part of a tensor's name; None for a name that PEFT does not write."""
    match = _NAME.fullmatch(name)
    return None if match is None else (match["path"], match["part"])


def are_lora(parts: Iterable[str]) -> bool:
    """Whether a module with these parts is adapted by LoRA."""
    return any(part.startswith("lora_") for part in parts)


def slots_of(path: str, module: BaseModule, config: AdapterConfig, *, adapted: bool) -> dict[str, Slot]:
    """The tensors of one module by part of their name, `adapted` saying whether there is LoRA on it."""
    if path in config.saved:
        return {
            _WEIGHT: Slot(module.weight, "for a module that modules_to_save names"),
            **_bias(_BIAS, module),
        }
    if path in config.rows.counts:
        count = config.rows.counts[path]
        origin = f"for {count} trainable_token_indices on {_of(module)}"
        return {_ROWS: Slot((count, module.weight[1]), origin)}
    if adapted and module.kind is ModuleKind.EMBEDDING:
        return _embedding_slots(config.rank_of(path), module, config)
    if adapted and module.kind in (ModuleKind.LINEAR, ModuleKind.OUTPUT):
        return _linear_slots(config.rank_of(path), module, config)
    return _bias(_BIAS, module) if config.bias == "all" else {}


def _linear_slots(rank: int, module: BaseModule, config: AdapterConfig) -> dict[str, Slot]:
    outputs, inputs = module.weight
    origin = f"for rank {rank} on {_of(module)}"
    slots = {_A: Slot((rank, inputs), origin), _B: Slot((outputs, rank), origin)}
    if config.lora_bias:
        slots[_B_BIAS] = Slot((outputs,), f"for lora_bias on {_of(module)}")
    if config.dora:
        slots[_MAGNITUDE] = Slot((outputs,), f"for use_dora on {_of(module)}")
    if config.bias != "none":
        slots |= _bias(_BASE_BIAS, module)
    if module.kind is ModuleKind.OUTPUT:
        slots |= _copy(module)
    return slots


def _embedding_slots(rank: int, module: BaseModule, config: AdapterConfig) -> dict[str, Slot]:
    vocabulary, hidden = module.weight
    origin = f"for rank {rank} on {_of(module)}"
    slots = {_EMBEDDING_A: Slot((rank, vocabulary), origin), _EMBEDDING_B: Slot((hidden, rank), origin)}
    if config.dora:
        slots[_MAGNITUDE] = Slot((hidden,), f"for use_dora on {_of(module)}")
    return slots | _copy(module)


def _copy(module: BaseModule) -> dict[str, Slot]:
    """The base's own weight, which PEFT saves too unless told not to. Only the worker can compare its values."""
    return {_BASE_WEIGHT: Slot(module.weight, "as the base's own weight", required=False)}


def _bias(part: str, module: BaseModule) -> dict[str, Slot]:
    return {} if module.bias is None else {part: Slot((module.bias,), "as the base's own bias")}


def _of(module: BaseModule) -> str:
    return f"a weight of {list(module.weight)}"
