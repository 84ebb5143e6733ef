"""An adapter_config.json by PEFT 0.21's LoraConfig: what every service and engine of ours takes it to say.

A key either is applied, or has no effect on what a trained adapter computes, or must have its default value: an
adapter is never served with part of its config ignored. null is "not said", so the key's default, for every key.
What a base adds to these rules (its caps, its modules) is said where the base is known.
"""

import math
from collections.abc import Collection, Mapping, Sized
from dataclasses import dataclass
from typing import Any

from services.common.adapters import strict_json
from services.common.adapters.patterns import PatternTable
from services.common.adapters.refusals import config_invalid, unsupported
from services.common.adapters.targets import BaseModules, Targets
from services.common.errors import InvalidFieldError

MAX_BYTES = 1024**2

APPLIED = frozenset({
    "peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "rank_pattern",
    "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "bias",
    "fan_in_fan_out", "revision", "ensure_weight_tying", "init_lora_weights", "use_dora", "lora_bias", "modules_to_save", "trainable_token_indices",
})  # fmt: skip
"""Keys with a check of their own below."""

INERT = frozenset({
    "auto_mapping", "peft_version", "inference_mode", "lora_dropout", "runtime_config",
    "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
})  # fmt: skip
"""Keys of how it was trained. The *_config ones act through init_lora_weights alone."""

MAX_RANK = 65_536
"""Of any base; that of one base is its own."""
MAX_ALPHA = 1e6
"""Far above what anybody trains with, and so low that no scale overflows."""

_DEFAULT_RANK = _DEFAULT_ALPHA = 8

# Defaults that are not off; every other key's default is null, false or empty.
_DEFAULTS: Mapping[str, object] = {"qalora_group_size": 16}

# The other ways of initialising subtract from the base's weights what they put into the adapter.
_PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal")

_BIASES = ("none", "all", "lora_only")


@dataclass(frozen=True)
class AdapterConfig:
    """A config that passed: what turns A and B into a delta, and what else was trained."""

    base_model_name: object
    """base_model_name_or_path as it stands there: a name, a path of somebody's machine, or nothing."""
    base_revision: object
    """Of that base; None where it is not said."""
    r: int
    alpha: float
    rank_pattern: PatternTable[int]
    alpha_pattern: PatternTable[float]
    rslora: bool
    dora: bool
    """Each module with LoRA has a magnitude vector (arXiv:2402.09353)."""
    lora_bias: bool
    """Each B has a bias."""
    bias: str
    """Whose biases of the base were trained: none, all, or lora_only for those of modules with LoRA."""
    targets: Targets
    is_random_at_first: bool
    """Whether PEFT begins with weights that do something, so that a target without any in the file is not as it was."""
    ties_weights: bool
    """Whether PEFT keeps tied weights tied in what it trains; without any it changes nothing."""
    saved: tuple[str, ...]
    """Names of the modules that were trained whole."""
    token_ids: Mapping[str, tuple[int, ...]]
    """Tokens whose rows were trained, at least one by the name of each module; the empty name is the input
    embedding."""

    def rank_of(self, path: str) -> int:
        """The rank of the module at `path`: that of its first matching pattern, else r."""
        rank = self.rank_pattern.number_of(path)
        return self.r if rank is None else rank

    def scale_of(self, path: str) -> float:
        """What B A is multiplied by: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (arXiv:2312.03732)."""
        alpha = self.alpha_pattern.number_of(path)
        rank = self.rank_of(path)
        return (self.alpha if alpha is None else alpha) / (math.sqrt(rank) if self.rslora else rank)

    def saves(self, path: str) -> bool:
        """Whether the module at `path` was trained whole; PEFT matches with endswith, so `norm` is `input_layernorm`."""
        return path.endswith(self.saved)


def parse_config(data: bytes, base: BaseModules) -> AdapterConfig:
    """The config that the file's bytes are, for a base with these modules. Raises InvalidFieldError."""
    if len(data) > MAX_BYTES:
        raise config_invalid("", f"{len(data)} bytes or more", f"at most {MAX_BYTES} bytes")
    try:
        written = strict_json.parse_object(data)
    except strict_json.StrictJsonError as error:
        raise config_invalid("", str(error), "one JSON object") from None
    config = {key: value for key, value in written.items() if value is not None}
    _check_kind(config)
    _check_variants(config)
    dora, lora_bias = _flag(config, "use_dora"), _flag(config, "lora_bias")
    if dora and lora_bias:
        raise unsupported("lora_bias", lora_bias, "false where use_dora is true, as PEFT has it")
    # How the base stores its weights, which whoever has the base sees for itself.
    _flag(config, "fan_in_fan_out")
    ranks = {key: _rank(f"rank_pattern[{key!r}]", value) for key, value in _table(config, "rank_pattern")}
    alphas = {key: _alpha(f"alpha_pattern[{key!r}]", value) for key, value in _table(config, "alpha_pattern")}
    saved = _saved(config.get("modules_to_save", []), most=len(base.paths))
    return AdapterConfig(
        base_model_name=config.get("base_model_name_or_path"),
        base_revision=config.get("revision") or None,
        r=_rank("r", config.get("r", _DEFAULT_RANK)),
        alpha=_alpha("lora_alpha", config.get("lora_alpha", _DEFAULT_ALPHA)),
        rank_pattern=PatternTable("rank_pattern", ranks, base.paths),
        alpha_pattern=PatternTable("alpha_pattern", alphas, base.paths),
        rslora=_flag(config, "use_rslora"),
        dora=dora,
        lora_bias=lora_bias,
        bias=config.get("bias", "none"),
        targets=Targets(config, base),
        is_random_at_first=config.get("init_lora_weights", True) is False,
        ties_weights=_flag(config, "ensure_weight_tying"),
        saved=saved,
        token_ids=_token_ids(config.get("trainable_token_indices", []), most=len(base.paths)),
    )


def _check_kind(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise unsupported("peft_type", config.get("peft_type"), "'LORA'")
    if config.get("task_type", "CAUSAL_LM") != "CAUSAL_LM":
        raise unsupported("task_type", config["task_type"], "'CAUSAL_LM' or null")


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
        if key not in APPLIED | INERT and not is_default(key, value):
            default = _DEFAULTS.get(key, "null, false or empty")
            raise unsupported(
                key, value, f"{default}: it is not among the settings that this service applies"
            )


def is_default(key: str, value: object) -> bool:
    """Whether a key without a check of its own is as if it were not there."""
    if value is None:
        return True
    if key in _DEFAULTS:
        return strict_json.is_int(value) and value == _DEFAULTS[key]
    return value is False or value in ("", [], {})


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key, False)
    if not isinstance(value, bool):
        raise config_invalid(key, value, "true or false")
    return value


def _rank(key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_RANK:
        raise config_invalid(key, value, f"a whole number from 1 to {MAX_RANK}")
    return value


def _alpha(key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= MAX_ALPHA:
        raise config_invalid(key, value, f"a number from {-MAX_ALPHA:.0f} to {MAX_ALPHA:.0f}")
    return float(value)


def _table(config: Mapping[str, Any], key: str) -> Collection[tuple[str, object]]:
    table = config.get(key, {})
    if not isinstance(table, dict):
        raise config_invalid(key, table, "an object from module pattern to number")
    return table.items()


def _saved(value: object, *, most: int) -> tuple[str, ...]:
    if isinstance(value, list):
        _check_count("modules_to_save", value, most)
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise config_invalid("modules_to_save", value, "a list of module names, or null")
    return tuple(value)


def _token_ids(value: object, *, most: int) -> dict[str, tuple[int, ...]]:
    if not isinstance(value, dict):
        return {"": ids} if (ids := _distinct_ids(value)) else {}
    _check_count("trainable_token_indices", value, most)
    found = {name: ids for name, one in value.items() if (ids := _distinct_ids(one))}
    if "" in found:
        raise _bad_tokens(value)
    return found


def _check_count(key: str, names: Sized, most: int) -> None:
    if len(names) > most:
        raise config_invalid(key, f"{len(names)} names", f"at most {most}, one for each module of the base")


def _distinct_ids(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(map(strict_json.is_int, value)):
        raise _bad_tokens(value)
    if len(set(value)) < len(value):
        raise _bad_tokens(value)
    return tuple(value)


def _bad_tokens(value: object) -> InvalidFieldError:
    return config_invalid(
        "trainable_token_indices",
        value,
        "a list of distinct token ids, an object from module name to such a list, or null",
    )
