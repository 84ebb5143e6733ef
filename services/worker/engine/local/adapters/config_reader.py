"""An adapter's config as far as the engine computes with it, after PEFT 0.21's LoraConfig.

A key is applied here, or is inert, or must have its default value; the tensors decide which modules are adapted.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.common.errors import InvalidFieldError

NAME = "adapter_config.json"

_APPLIED = frozenset({
    "peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights", "bias",
    "use_dora", "lora_bias", "modules_to_save", "trainable_token_indices",
})  # fmt: skip

# How it was trained, or which modules were chosen. fan_in_fan_out says how the base stores its weight, which the
# engine sees for itself. The *_config keys act through init_lora_weights alone.
_INERT = frozenset({
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "runtime_config", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout",
    "fan_in_fan_out", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
})  # fmt: skip

# Defaults that are not off; every other key's default is null, false or empty.
_DEFAULTS: Mapping[str, object] = {"qalora_group_size": 16}

# The other ways of initialising subtract from the base's weights what they put into the adapter.
_PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal")


_BIASES = ("none", "all", "lora_only")


@dataclass(frozen=True)
class AdapterConfig:
    """What turns A and B into a delta."""

    r: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rslora: bool
    dora: bool
    """Each adapted module has a magnitude vector (arXiv:2402.09353)."""
    lora_bias: bool
    """B has a bias."""
    bias: str
    """Whose biases of the base were trained: none, all, lora_only."""
    saved: tuple[str, ...]
    """Names of the modules that were trained whole."""
    token_ids: Mapping[str, tuple[int, ...]]
    """Tokens whose rows were trained, by the name of the module; the empty name is the input embedding."""

    def saves(self, path: str) -> bool:
        """Whether the module at `path` was trained whole, by PEFT's rule."""
        return any(path.endswith(name) for name in self.saved)

    def rank_of(self, path: str) -> int:
        """The rank of the module at `path`: that of its first matching pattern, else r."""
        pattern = _first_match(self.rank_pattern, path)
        return self.r if pattern is None else self.rank_pattern[pattern]

    def scale_of(self, path: str) -> float:
        """What B A is multiplied by: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (arXiv:2312.03732)."""
        pattern = _first_match(self.alpha_pattern, path)
        alpha = self.alpha if pattern is None else self.alpha_pattern[pattern]
        rank = self.rank_of(path)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def read_config(folder: Path) -> AdapterConfig:
    """Read adapter_config.json of `folder`. Raises InvalidFieldError for what cannot be applied exactly."""
    try:
        config = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _invalid(NAME, str(error), "a JSON file") from None
    if not isinstance(config, dict):
        raise _invalid(NAME, f"a {type(config).__name__}", "a JSON object")
    if config.get("peft_type") != "LORA":
        raise _unsupported("peft_type", config.get("peft_type"), "'LORA'")
    _check_variants(config)
    dora, lora_bias = _flag(config, "use_dora"), _flag(config, "lora_bias")
    if dora and lora_bias:
        raise _unsupported("lora_bias", True, "false where use_dora is true")
    return AdapterConfig(
        r=_rank("r", config.get("r", 8)),
        alpha=_number("lora_alpha", config.get("lora_alpha", 8)),
        rank_pattern={key: _rank("rank_pattern", value) for key, value in _table(config, "rank_pattern")},
        alpha_pattern={
            key: _number("alpha_pattern", value) for key, value in _table(config, "alpha_pattern")
        },
        rslora=_flag(config, "use_rslora"),
        dora=dora,
        lora_bias=lora_bias,
        bias=config.get("bias", "none"),
        saved=_names(config.get("modules_to_save")),
        token_ids=_token_ids(config.get("trainable_token_indices")),
    )


def _check_variants(config: Mapping[str, Any]) -> None:  # Any: JSON values
    init = config.get("init_lora_weights", True)
    if not any(init is plain or (isinstance(init, str) and init == plain) for plain in _PLAIN_INITS):
        raise _unsupported("init_lora_weights", init, "true, false, 'gaussian', 'eva' or 'orthogonal'")
    if config.get("bias", "none") not in _BIASES:
        raise _unsupported("bias", config["bias"], f"one of {', '.join(_BIASES)}")
    for key, value in config.items():
        if key not in _APPLIED | _INERT and not _is_default(key, value):
            raise _unsupported(
                key, value, f"{_DEFAULTS.get(key, 'null, false or empty')}: the engine does not apply it"
            )


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise _invalid(f"{NAME}: {key}", value, "true or false")
    return value


def _names(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise _invalid(f"{NAME}: modules_to_save", value, "a list of module names, or null")
    return tuple(value)


def _token_ids(value: object) -> dict[str, tuple[int, ...]]:
    by_name: dict[str, Any] = value if isinstance(value, dict) else {"": value or []}  # Any: JSON values
    for ids in by_name.values():
        if not isinstance(ids, list) or not all(type(one) is int for one in ids) or len(set(ids)) < len(ids):
            raise _invalid(
                f"{NAME}: trainable_token_indices",
                value,
                "a list of distinct whole numbers, such lists by module name, or null",
            )
    return {name: tuple(ids) for name, ids in by_name.items() if ids}


def _is_default(key: str, value: object) -> bool:
    if key in _DEFAULTS:
        return value == _DEFAULTS[key]
    return value is None or value is False or value in ("", [], {})


def _rank(key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _invalid(f"{NAME}: {key}", value, "a whole number, at least 1")
    return value


def _number(key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise _invalid(f"{NAME}: {key}", value, "a finite number")
    return float(value)


def _table(config: Mapping[str, Any], key: str) -> Iterable[tuple[str, object]]:
    table = config.get(key) or {}
    if not isinstance(table, dict):
        raise _invalid(f"{NAME}: {key}", table, "an object from module pattern to number")
    for pattern in table:
        try:
            _compile(pattern)
        except re.error as error:
            raise _invalid(f"{NAME}: {key}", pattern, f"valid patterns ({error})") from None
    return table.items()


def _first_match(patterns: Iterable[str], path: str) -> str | None:
    """The first pattern that `path` ends with, as PEFT's get_pattern_key has it.

    How long a pattern may take to match is bounded when the adapter is admitted, long before it comes here.
    """
    return next((pattern for pattern in patterns if _compile(pattern).match(path)), None)


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


def _invalid(field: str, value: object, bound: str) -> InvalidFieldError:
    return InvalidFieldError(field, value, bound, reason="ADAPTER_CONFIG_INVALID")


def _unsupported(key: str, value: object, bound: str) -> InvalidFieldError:
    return InvalidFieldError(f"{NAME}: {key}", value, bound, reason="ADAPTER_UNSUPPORTED")
