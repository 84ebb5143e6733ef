"""Which modules of the base a config has trained other than by LoRA: saved whole, or rows of single tokens.

After PEFT 0.21's set_additional_trainable_modules in peft/utils/other.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.common.adapters.config import AdapterConfig
from services.common.adapters.refusals import config_invalid, unsupported
from services.registry.bases.base_model import BaseModel, ModuleKind

_SAVED, _TOKENS = "modules_to_save", "trainable_token_indices"
_ROW_KINDS = (ModuleKind.EMBEDDING, ModuleKind.OUTPUT)
_SAVED_KINDS = (ModuleKind.NORM, *_ROW_KINDS)


@dataclass(frozen=True)
class TokenRows:
    """Rows of the input embedding or the output layer that were trained token by token."""

    counts: Mapping[str, int] = field(default_factory=dict)
    """How many rows the file has, by path of the module."""
    modules: frozenset[str] = frozenset()
    """Paths of the modules that these rows change: those of `counts`, and a tied output layer that has no own."""


def saved_modules(config: AdapterConfig, base: BaseModel) -> frozenset[str]:
    """Paths of the modules that `modules_to_save` names. Raises InvalidFieldError.

    A name that stands for nothing in the base is passed over, as PEFT does.
    """
    paths = {path for name in config.saved for path in base.paths_ending_with(name)}
    for path in sorted(paths):
        if not _is_one_of(_SAVED_KINDS, path, base):
            raise unsupported(_SAVED, path, "norms, the input embedding or the output layer of the base")
    return frozenset(paths)


def token_rows(config: AdapterConfig, base: BaseModel, *, saved: frozenset[str]) -> TokenRows:
    """What `trainable_token_indices` trains, `saved` being what is saved whole. Raises InvalidFieldError."""
    ids_by_path = _ids_by_path(config, base)
    modules = set(ids_by_path)
    embedding, output = base.path_of(ModuleKind.EMBEDDING), base.path_of(ModuleKind.OUTPUT)
    if embedding in ids_by_path and output is not None and base.modules[output].tied:
        # PEFT ties the rows where the weights are tied, unless the output layer has other tokens of its own.
        own = ids_by_path.get(output)
        if own is None or own == ids_by_path[embedding]:
            ids_by_path.pop(output, None)
            modules.add(output)
    for path in sorted(modules):
        if path in saved:
            raise unsupported(_TOKENS, path, f"modules that {_SAVED} does not name")
        if base.modules[path].bias is not None:
            raise unsupported(_TOKENS, path, "modules without a bias")
    return TokenRows({path: len(ids) for path, ids in ids_by_path.items()}, frozenset(modules))


def _ids_by_path(config: AdapterConfig, base: BaseModel) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, ids in config.token_ids.items():
        for path in _paths_of(name, ids, base):
            if not _is_one_of(_ROW_KINDS, path, base):
                raise unsupported(_TOKENS, path, "about the input embedding or the output layer of the base")
            if path in found:
                raise config_invalid(_TOKENS, name, f"about different modules; two names stand for {path}")
            vocabulary = base.modules[path].weight[0]
            stranger = next((one for one in ids if not 0 <= one < vocabulary), None)
            if stranger is not None:
                raise config_invalid(_TOKENS, stranger, f"token ids from 0 to {vocabulary - 1}")
            found[path] = ids
    return found


def _paths_of(name: str, ids: tuple[int, ...], base: BaseModel) -> list[str]:
    """What a name stands for; the empty one is the input embedding."""
    if name:
        paths = base.paths_ending_with(name)
        if not paths:
            raise config_invalid(_TOKENS, name, f"about modules of base model {base.name}")
        return paths
    embedding = base.path_of(ModuleKind.EMBEDDING)
    if embedding is None:
        raise unsupported(
            _TOKENS, list(ids), f"null: base model {base.name} has no input embedding by a known name"
        )
    return [embedding]


def _is_one_of(kinds: tuple[ModuleKind, ...], path: str, base: BaseModel) -> bool:
    return path in base.modules and base.modules[path].kind in kinds
