"""On which modules PEFT 0.21 puts LoRA: check_target_module_exists in peft/tuners/tuners_utils.py."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from services.common.adapters import strict_json
from services.common.adapters.patterns import Pattern, check_cost
from services.common.adapters.refusals import config_invalid

_ALL_LINEAR = "all-linear"
_PLACE_FORM = r"(?:^|.*?\.){}\.(?P<idx>\d+)\."
_MAX_PLACES = 8

_QV = ("q_proj", "v_proj")
_DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "gpt2": ("c_attn",),
    "gpt_bigcode": ("c_attn",),
    "gpt_neox": ("query_key_value",),
    "bloom": ("query_key_value",),
    "falcon": ("query_key_value",),
    "codegen": ("qkv_proj",),
    "mpt": ("Wqkv",),
    "phi": (*_QV, "fc1", "fc2"),
    "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
    **dict.fromkeys(
        (
            "gemma", "gemma2", "gemma3_text", "gpt_neo", "gptj", "llama", "llama4", "mistral", "mixtral", "opt", "qwen2",
            "qwen3", "stablelm",
        ),
        _QV,
    ),
}  # fmt: skip
"""What target_modules stands for where it is not said, by the base's model_type; PEFT's own table, for decoders."""


@dataclass(frozen=True)
class BaseModules:
    """What the rules of adapters need to know of a base."""

    model_type: str
    """As in the base's config.json."""
    paths: Collection[str]
    """Of the modules that have parameters."""
    linears: Collection[str]
    """Of the linear ones among them, without the output layer."""


class Targets:
    """Which modules a config has LoRA on. Immutable."""

    def __init__(self, config: Mapping[str, Any], base: BaseModules) -> None:
        """`config` is without nulls. Raises InvalidFieldError."""
        self._base = base
        self._saved: list[str] = config.get("modules_to_save", [])
        targets = _names_or_pattern(config, "target_modules", base)
        self._targets = frozenset(_DEFAULTS.get(base.model_type, ())) if targets is None else targets
        self._excluded = _names_or_pattern(config, "exclude_modules", base)
        self._layers = _layers(config, base)
        self._said = config

    def check(self, path: str) -> None:
        """Raise InvalidFieldError, naming the key, unless LoRA is on the module at `path`.

        PEFT passes over weights that the config has no place for.
        """
        key = self.why_not(path)
        if key:
            raise config_invalid(
                key, self._said.get(key), f"such that LoRA is on {path}, of which the file has weights"
            )

    def why_not(self, path: str) -> str:
        """The key by which the module at `path` has no LoRA; empty where it has."""
        if self._excluded is not None and _matches(self._excluded, path):
            return "exclude_modules"
        if any(f".{name}." in f".{path}." for name in self._saved):
            return "modules_to_save"
        targets = self._targets
        if isinstance(targets, frozenset) and path in targets:
            return ""  # a whole path, whatever its layer
        if not (path in self._base.linears if targets == _ALL_LINEAR else _matches(targets, path)):
            return "target_modules"
        return "" if self._layers is None or self._layers.have(path) else "layers_to_transform"


@dataclass(frozen=True)
class _Layers:
    """The layers that layers_to_transform names, found in paths by layers_pattern."""

    numbers: frozenset[int]
    places: tuple[re.Pattern[str], ...]

    def have(self, path: str) -> bool:
        found = next((match for place in self.places if (match := place.match(path))), None)
        return found is not None and int(found["idx"]) in self.numbers


_Names = frozenset[str] | Pattern | str


def _names_or_pattern(config: Mapping[str, Any], key: str, base: BaseModules) -> _Names | None:
    value = config.get(key)
    if value is None or value == []:
        return None if value is None or key == "exclude_modules" else frozenset()
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return frozenset(value)
    if not isinstance(value, str):
        raise config_invalid(key, value, "a string, a list of strings, or null")
    if key == "target_modules" and value.lower() == _ALL_LINEAR:
        return _ALL_LINEAR
    if key == "exclude_modules" and not value:
        return None
    pattern = Pattern(key, value, "{}")
    check_cost(key, [pattern], base.paths)
    return pattern


def _layers(config: Mapping[str, Any], base: BaseModules) -> _Layers | None:
    numbers, places = config.get("layers_to_transform", []), config.get("layers_pattern", [])
    if not (
        strict_json.is_int(numbers) or (isinstance(numbers, list) and all(map(strict_json.is_int, numbers)))
    ):
        raise config_invalid("layers_to_transform", numbers, "a whole number, a list of them, or null")
    if not (
        isinstance(places, str) or (isinstance(places, list) and all(isinstance(one, str) for one in places))
    ):
        raise config_invalid("layers_pattern", places, "a string, a list of strings, or null")
    by_pattern = isinstance(config.get("target_modules"), str)
    for key in ("layers_to_transform", "layers_pattern"):
        # As LoraConfig itself has it.
        if by_pattern and key in config:
            raise config_invalid(key, config[key], "null where target_modules is a string")
    if places and "layers_to_transform" not in config:
        raise config_invalid("layers_pattern", places, "null where layers_to_transform is")
    if numbers == []:
        return None
    if isinstance(places, str):
        places = [places] if places else []
    if len(places) > _MAX_PLACES:
        raise config_invalid("layers_pattern", f"{len(places)} names", f"at most {_MAX_PLACES} names")
    found = [Pattern("layers_pattern", one, _PLACE_FORM) for one in places]
    check_cost("layers_pattern", found, base.paths)
    # Without a pattern the first number in the path counts, whatever stands before it.
    compiled = tuple(one.compiled for one in found) or (re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\."),)
    return _Layers(frozenset([numbers] if isinstance(numbers, int) else numbers), compiled)


def _matches(names: _Names, path: str) -> bool:
    if isinstance(names, Pattern):
        return names.compiled.fullmatch(path) is not None
    # By the path's few ends, and not by the names, of which a stranger may send many.
    return path in names or any(path[place + 1 :] in names for place, one in enumerate(path) if one == ".")
