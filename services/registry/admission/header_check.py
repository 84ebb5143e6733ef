"""Whether an adapter's tensors fit the base: read off the header alone, before any weights are fetched.

The tensors decide which modules LoRA adapts. Every tensor must be used, and none that is needed may be missing.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from services.common.adapters.refusals import WEIGHTS, tensors_invalid, unsupported
from services.common.adapters.tensor_names import FORM, GOES_WITH, is_lora, split_name
from services.common.errors import InvalidFieldError
from services.registry.admission.base_rules import FittedConfig
from services.registry.admission.expected_tensors import WITH_VOCABULARY, slots_of
from services.registry.admission.safetensors_header import HeaderError, TensorEntry, parse_header
from services.registry.bases.base_model import BaseModel, BaseModule, ModuleKind

_DTYPES = ("F32", "F16", "BF16")
_NEED_PERMISSION = (ModuleKind.LINEAR, ModuleKind.EMBEDDING, ModuleKind.OUTPUT)


@dataclass(frozen=True)
class AdapterModules:
    """What the adapter changes."""

    rank: int
    """The largest among the modules that LoRA adapts."""
    target_modules: tuple[str, ...]
    """Last parts of the paths of modules that have LoRA, are saved whole or have rows of tokens; sorted."""


def check_header(header: bytes, *, file_size: int, fitted: FittedConfig, base: BaseModel) -> AdapterModules:
    """Check the JSON header of an adapter's weights in full. Raises InvalidFieldError, naming the tensor."""
    try:
        tensors = parse_header(header, file_size=file_size)
    except HeaderError as error:
        raise not_safetensors(error) from None
    modules = _by_module(tensors)
    adapted = {path for path, parts in modules.items() if any(map(is_lora, parts))}
    if not adapted:
        raise tensors_invalid("", "without LoRA weights", "a file with LoRA weights of at least one module")
    changed = adapted | fitted.saved | fitted.rows.counts.keys()
    _check_tied(changed, fitted, base)
    for path, parts in modules.items():
        if path not in base.modules:
            raise tensors_invalid("module", path, f"a module of base model {base.name}")
        _check_module(path, parts, fitted, base)
    for path in adapted:
        fitted.config.targets.check(path)
    if fitted.config.is_random_at_first:
        _check_all_there(adapted, fitted, base)
    for path in base.modules:
        if path not in modules:  # without any tensor, though the config may ask for some
            _check_module(path, {}, fitted, base)
    return AdapterModules(
        max(fitted.config.rank_of(path) for path in adapted),
        tuple(sorted({path.rpartition(".")[2] for path in changed})),
    )


def not_safetensors(error: HeaderError) -> InvalidFieldError:
    """The refusal of a file whose header cannot be read."""
    return tensors_invalid("", str(error), "a whole safetensors file")


def _by_module(tensors: Mapping[str, TensorEntry]) -> dict[str, dict[str, TensorEntry]]:
    modules: dict[str, dict[str, TensorEntry]] = {}
    for name, tensor in tensors.items():
        split = split_name(name)
        if split is None:
            raise tensors_invalid(
                "tensor name",
                name,
                f"{FORM}; nothing would use this tensor",
            )
        if tensor.dtype not in _DTYPES:
            raise tensors_invalid(f"dtype of {name}", tensor.dtype, f"one of {', '.join(_DTYPES)}")
        path, part = split
        modules.setdefault(path, {})[part] = tensor
    return modules


def _check_module(path: str, parts: Mapping[str, TensorEntry], fitted: FittedConfig, base: BaseModel) -> None:
    module = base.modules[path]
    adapted = any(map(is_lora, parts))
    if adapted:
        _check_combination(path, module, fitted)
    slots = slots_of(path, module, fitted, adapted=adapted)
    for part in parts:
        if part not in slots:
            raise tensors_invalid(
                "tensor name",
                f"base_model.model.{path}.{part}",
                f"one that would be used: {part} goes with {GOES_WITH[part]}",
            )
    if adapted or path in fitted.saved or path in fitted.rows.counts:
        _check_permission(path, module, base)
    for part, slot in slots.items():
        tensor = parts.get(part)
        if tensor is None and slot.required:
            raise tensors_invalid(
                f"{path}.{part}", "missing", f"there, with shape {list(slot.shape)}, {slot.origin}"
            )
        if tensor is not None and tensor.shape != slot.shape:
            _check_vocabulary(path, tensor.shape, slot.shape, base)
            raise tensors_invalid(
                f"shape of {path}.{part}", list(tensor.shape), f"{list(slot.shape)}, {slot.origin}"
            )


def _check_vocabulary(path: str, found: tuple[int, ...], expected: tuple[int, ...], base: BaseModel) -> None:
    """Tell of a vocabulary that grew in training: the commonest misfit, which reads like a damaged file otherwise."""
    module = base.modules[path]
    if module.kind not in WITH_VOCABULARY or len(found) != len(expected):
        return
    rows = module.weight[0]
    differ = [(one, other) for one, other in zip(found, expected, strict=True) if one != other]
    if len(differ) == 1 and differ[0][1] == rows:
        raise InvalidFieldError(
            f"{WEIGHTS}: {path}",
            f"for {differ[0][0]} tokens",
            f"for {rows}, as base model {base.name} has them: tokens were added in training (a chat format's, say), "
            "which the base cannot serve; train with the base's own vocabulary",
            reason="ADAPTER_VOCABULARY_CHANGED",
        )


def _check_all_there(adapted: Collection[str], fitted: FittedConfig, base: BaseModel) -> None:
    """A target without weights in the file stays as PEFT begins it, which here is by chance."""
    for path, module in base.modules.items():
        if (
            module.kind in _NEED_PERMISSION
            and path not in adapted
            and not fitted.config.targets.why_not(path)
        ):
            raise tensors_invalid(
                f"{path}.lora_A.weight",
                "missing",
                "there: where init_lora_weights is false, PEFT would put weights of chance on this target",
            )


def _check_tied(changed: Collection[str], fitted: FittedConfig, base: BaseModel) -> None:
    """Where it ties what was trained, PEFT makes one of two modules' weights from the other's."""
    if not fitted.config.ties_weights:
        return
    tied = [path for path, module in base.modules.items() if module.tied]
    both = [*tied, *(path for path, one in base.modules.items() if one.kind is ModuleKind.EMBEDDING)]
    for path in both if tied else ():
        if path in changed:
            raise unsupported("ensure_weight_tying", value=True, bound=f"false where {path} is trained")


def _check_combination(path: str, module: BaseModule, fitted: FittedConfig) -> None:
    """What PEFT gives no meaning to, or one that depends on the order in which it wraps the module."""
    if path in fitted.saved:
        raise unsupported("modules_to_save", path, "modules without LoRA weights")
    if path in fitted.rows.modules:
        raise unsupported("trainable_token_indices", path, "about modules without LoRA weights")
    if fitted.config.lora_bias and module.kind is ModuleKind.EMBEDDING:
        raise unsupported("lora_bias", value=True, bound=f"false where LoRA is on {path}, an embedding")


def _check_permission(path: str, module: BaseModule, base: BaseModel) -> None:
    if module.kind in _NEED_PERMISSION and path.rpartition(".")[2] not in base.target_modules:
        raise tensors_invalid(
            "module", path, f"one of {', '.join(base.target_modules)}, which this base lets be adapted"
        )
