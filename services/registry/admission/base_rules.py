"""What an adapter_config.json may say, after PEFT 0.21's LoraConfig.

A key either is applied by the engine, or has no effect on what a trained adapter computes, or must have its
default value: an adapter is never served with part of its config ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.common.adapters import patterns, refusals, strict_json
from services.common.adapters.refusals import config_invalid, unsupported
from services.common.errors import InvalidFieldError
from services.registry.admission import trained_modules
from services.registry.admission.trained_modules import TokenRows
from services.registry.bases.base_model import BaseModel

NAME = refusals.CONFIG
MAX_BYTES = 1024**2

APPLIED = frozenset({
    "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "rank_pattern",
    "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "bias",
    "fan_in_fan_out", "init_lora_weights", "use_dora", "lora_bias", "modules_to_save", "trainable_token_indices",
})  # fmt: skip
"""Keys with a check of their own below."""

INERT = frozenset({
    "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout", "runtime_config",
    "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
})  # fmt: skip
"""Keys of how it was trained. The *_config ones act through init_lora_weights alone."""

# Defaults that are not off; every other key's default is null, false or empty.
_DEFAULTS: Mapping[str, object] = {"qalora_group_size": 16}

# The other ways of initialising subtract from the base's weights what they put into the adapter.
_PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal")

_BIASES = ("none", "all", "lora_only")


@dataclass(frozen=True)
class AdapterConfig:
    """What the header check needs of a config that passed."""

    r: int
    rank_pattern: Mapping[str, int]
    dora: bool = False
    """Each module with LoRA has a magnitude vector (arXiv:2402.09353)."""
    lora_bias: bool = False
    """Each B has a bias."""
    bias: str = "none"
    """Whose biases of the base were trained: none, all, or lora_only for those of modules with LoRA."""
    saved: frozenset[str] = frozenset()
    """Paths of the modules that were trained whole."""
    rows: TokenRows = field(default_factory=TokenRows)

    def rank_of(self, path: str) -> int:
        """The rank of a module, by PEFT's rule: its first matching pattern, else r."""
        pattern = patterns.first_match(self.rank_pattern, path)
        return self.r if pattern is None else self.rank_pattern[pattern]


def parse_config(data: bytes, base: BaseModel) -> AdapterConfig:
    """Check the file's bytes against what the engine applies and what `base` takes. Raises InvalidFieldError."""
    try:
        config = strict_json.parse_object(data)
    except strict_json.StrictJsonError as error:
        raise config_invalid("", str(error), "one JSON object") from None
    _check_kind(config)
    _check_base(config, base)
    r = _rank("r", config.get("r", 8), base)
    rank_pattern = _pattern_table(config, "rank_pattern")
    for key, value in rank_pattern.items():
        _rank(f"rank_pattern[{key!r}]", value, base)
    _check_scale(config)
    _check_modules(config)
    _check_variants(config)
    # How the base stores its weights, which the engine sees for itself.
    _flag(config, "fan_in_fan_out")
    dora, lora_bias = _flag(config, "use_dora"), _flag(config, "lora_bias")
    if dora and lora_bias:
        raise unsupported("lora_bias", lora_bias, "false where use_dora is true, as PEFT has it")
    saved = trained_modules.saved_modules(config.get("modules_to_save"), base)
    bias = config.get("bias", "none")
    if bias == "all":
        _check_saved_biases(saved, base)
    rows = trained_modules.token_rows(config.get("trainable_token_indices"), base, saved=saved)
    return AdapterConfig(r, rank_pattern, dora, lora_bias, bias, saved, rows)


def _check_saved_biases(saved: frozenset[str], base: BaseModel) -> None:
    """PEFT saves such a bias under three names, with values that need not agree."""
    for path in sorted(saved):
        if base.modules[path].bias is not None:
            raise unsupported("modules_to_save", path, "modules without a bias where bias is 'all'")


def _check_kind(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise unsupported("peft_type", config.get("peft_type"), "'LORA'")
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        raise unsupported("task_type", config["task_type"], "'CAUSAL_LM' or null")


def _check_base(config: Mapping[str, Any], base: BaseModel) -> None:
    value = config.get("base_model_name_or_path")
    if not isinstance(value, str) or value.casefold() not in {one.casefold() for one in base.hub_ids}:
        raise InvalidFieldError(
            f"{NAME}: base_model_name_or_path",
            value,
            f"one of {', '.join(base.hub_ids)}, which base model {base.name} goes by",
            reason="ADAPTER_BASE_MISMATCH",
        )


def _rank(key: str, value: object, base: BaseModel) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise config_invalid(key, value, f"a whole number from 1 to {base.max_lora_rank}")
    if value > base.max_lora_rank:
        raise InvalidFieldError(
            f"{NAME}: {key}",
            value,
            f"at most {base.max_lora_rank}, the cap of base model {base.name}",
            reason="ADAPTER_RANK_ABOVE_CAP",
        )
    return value


def _check_scale(config: Mapping[str, Any]) -> None:
    alpha = config.get("lora_alpha", 8)
    if not strict_json.is_number(alpha):
        raise config_invalid("lora_alpha", alpha, "a number")
    for key, value in _pattern_table(config, "alpha_pattern").items():
        if not strict_json.is_number(value):
            raise config_invalid(f"alpha_pattern[{key!r}]", value, "a number")
    _flag(config, "use_rslora")


def _pattern_table(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    table = config.get(key)
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise config_invalid(key, table, "an object from module pattern to number")
    patterns.check_patterns(f"{NAME}: {key}", table)
    return table


def _check_modules(config: Mapping[str, Any]) -> None:
    """Form only: the tensors decide which modules are adapted."""
    for key in ("target_modules", "exclude_modules", "layers_pattern"):
        value = config.get(key)
        if not (value is None or isinstance(value, str) or _is_list_of(value, str)):
            raise config_invalid(key, value, "a string, a list of strings, or null")
    layers = config.get("layers_to_transform")
    if not (layers is None or strict_json.is_int(layers) or _is_list_of(layers, int)):
        raise config_invalid("layers_to_transform", layers, "a whole number, a list of them, or null")


def _check_variants(config: Mapping[str, Any]) -> None:
    init = config.get("init_lora_weights", True)
    if not any(init is plain or (isinstance(init, str) and init == plain) for plain in _PLAIN_INITS):
        raise unsupported(
            "init_lora_weights",
            init,
            "true, false, 'gaussian', 'eva' or 'orthogonal'; PEFT's save_pretrained converts other adapters when "
            "given path_initial_model_for_weight_conversion",
        )
    if config.get("bias", "none") not in _BIASES:
        raise unsupported("bias", config["bias"], f"one of {', '.join(_BIASES)}")
    for key, value in config.items():
        if key not in APPLIED | INERT and not _is_default(key, value):
            default = _DEFAULTS.get(key, "null, false or empty")
            raise unsupported(
                key, value, f"{default}: it is not among the settings that this service applies"
            )


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise config_invalid(key, value, "true or false")
    return value


def _is_default(key: str, value: object) -> bool:
    if key in _DEFAULTS:
        return strict_json.is_int(value) and value == _DEFAULTS[key]
    return value is None or value is False or value in ("", [], {})


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, kind) and not isinstance(one, bool) for one in value
    )
