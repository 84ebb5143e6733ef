"""Which tensors PEFT 0.21 writes for a module of an adapter, and in which shapes.

After peft/utils/save_and_load.py, the wrappers in peft/utils/other.py, and _get_learnable_bias_state_dict in
peft/tuners/tuners_utils.py.
"""

from dataclasses import dataclass

from services.common.adapters import tensor_names as names
from services.common.adapters.config import AdapterConfig
from services.registry.admission.base_rules import FittedConfig
from services.registry.bases.base_model import BaseModule, ModuleKind

WITH_VOCABULARY = (ModuleKind.EMBEDDING, ModuleKind.OUTPUT)
"""Modules whose weight has a row for each token."""


@dataclass(frozen=True)
class Slot:
    """A tensor that belongs into the file."""

    shape: tuple[int, ...]
    origin: str
    """Where the shape comes from: `for rank 4 on a weight of [16, 8]`."""
    required: bool = True


def slots_of(path: str, module: BaseModule, fitted: FittedConfig, *, adapted: bool) -> dict[str, Slot]:
    """The tensors of one module by part of their name, `adapted` saying whether there is LoRA on it."""
    if path in fitted.saved:
        return {
            names.WEIGHT: Slot(module.weight, "for a module that modules_to_save names"),
            **_bias(names.BIAS, module),
        }
    copy = _copy(names.WEIGHT, module) if module.kind in WITH_VOCABULARY else {}
    if path in fitted.rows.counts:
        count = fitted.rows.counts[path]
        origin = f"for {count} trainable_token_indices on {_of(module)}"
        return {names.TOKEN_ROWS: Slot((count, module.weight[1]), origin), **copy}
    if adapted and module.kind is ModuleKind.EMBEDDING:
        return copy | _embedding_slots(fitted.config.rank_of(path), module, fitted.config)
    if adapted and module.kind in (ModuleKind.LINEAR, ModuleKind.OUTPUT):
        return copy | _linear_slots(fitted.config.rank_of(path), module, fitted.config)
    return copy | (_bias(names.BIAS, module) if fitted.config.bias == "all" else {})


def _linear_slots(rank: int, module: BaseModule, config: AdapterConfig) -> dict[str, Slot]:
    outputs, inputs = module.weight
    origin = f"for rank {rank} on {_of(module)}"
    slots = {names.A: Slot((rank, inputs), origin), names.B: Slot((outputs, rank), origin)}
    if config.lora_bias:
        slots[names.B_BIAS] = Slot((outputs,), f"for lora_bias on {_of(module)}")
    if config.dora:
        slots[names.MAGNITUDE] = Slot((outputs,), f"for use_dora on {_of(module)}")
    if config.bias != "none":
        slots |= _bias(names.BASE_BIAS, module)
    if module.kind is ModuleKind.OUTPUT:
        slots |= _copy(names.BASE_WEIGHT, module)
    return slots


def _embedding_slots(rank: int, module: BaseModule, config: AdapterConfig) -> dict[str, Slot]:
    vocabulary, hidden = module.weight
    origin = f"for rank {rank} on {_of(module)}"
    slots = {
        names.EMBEDDING_A: Slot((rank, vocabulary), origin),
        names.EMBEDDING_B: Slot((hidden, rank), origin),
    }
    if config.dora:
        slots[names.MAGNITUDE] = Slot((hidden,), f"for use_dora on {_of(module)}")
    return slots | _copy(names.BASE_WEIGHT, module)


def _copy(part: str, module: BaseModule) -> dict[str, Slot]:
    """The base's own weight, which PEFT saves too unless told not to. Only the worker can compare its values."""
    return {part: Slot(module.weight, "as the base's own weight", required=False)}


def _bias(part: str, module: BaseModule) -> dict[str, Slot]:
    return {} if module.bias is None else {part: Slot((module.bias,), "as the base's own bias")}


def _of(module: BaseModule) -> str:
    return f"a weight of {list(module.weight)}"
