"""A base model as the registry knows it once its files have been looked at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from services.common.adapters.targets import BaseModules


@dataclass(frozen=True)
class Price:
    """Pico-USD for one token. Even, so that LoRA's 3/2 of it is whole."""

    prompt: int
    cached_prompt: int
    """Of a prompt token that the prefix cache has; at most `prompt`."""
    completion: int

    def for_lora(self) -> "Price":
        """Exactly 3/2 of this."""
        return Price(self.prompt * 3 // 2, self.cached_prompt * 3 // 2, self.completion * 3 // 2)


class ModuleKind(Enum):
    """What a module is to an adapter."""

    LINEAR = "a linear module"
    EMBEDDING = "the input embedding"
    OUTPUT = "the output layer"
    NORM = "a norm"
    OTHER = "another module"


@dataclass(frozen=True)
class BaseModule:
    """A module with parameters of its own, or a tied output layer."""

    kind: ModuleKind
    weight: tuple[int, ...]
    """Shape: [out, in] of a linear module and of the output layer, however the file stores it;
    [vocabulary, hidden] of the input embedding; [width] of a norm."""
    bias: int | None = None
    """Its length; None where there is no bias."""
    tied: bool = False
    """An output layer whose weight is the input embedding's."""


@dataclass(frozen=True)
class Tokenizer:
    """What turns text into this base's token ids."""

    tokenizer_json: bytes
    chat_template: str
    """Jinja; empty where the base has none."""
    special_tokens: Mapping[str, str]
    """By the names that templates use: bos_token, eos_token, ..."""
    added_tokens: Mapping[str, int] = field(default_factory=dict)
    """Ids of the tokens that are found in a text before all others, by content."""


@dataclass(frozen=True)
class BaseModel:
    """One entry of the operator's list, resolved."""

    name: str
    hub_ids: tuple[str, ...]
    local_path: str
    """The folder of its files; empty where they are on the Hub."""
    hub_repo: str
    commit: str
    context_length: int
    max_lora_rank: int
    target_modules: tuple[str, ...]
    price: Price
    modules: Mapping[str, BaseModule]
    """By path (`model.layers.0.self_attn.q_proj`)."""
    tokenizer: Tokenizer
    revision: str = ""
    """What the operator asked for, which `commit` stood for then; empty where nothing was asked."""
    model_type: str = ""
    """As in its config.json."""

    @property
    def adaptable(self) -> BaseModules:
        """What the rules of adapters need to know of it."""
        linears = [path for path, one in self.modules.items() if one.kind is ModuleKind.LINEAR]
        return BaseModules(self.model_type, self.modules.keys(), linears)

    @property
    def vocabulary_size(self) -> int:
        """Rows of the input embedding or the output layer; 0 where neither is known."""
        path = self.path_of(ModuleKind.EMBEDDING) or self.path_of(ModuleKind.OUTPUT)
        return 0 if path is None else self.modules[path].weight[0]

    def path_of(self, kind: ModuleKind) -> str | None:
        """The path of the input embedding or the output layer, of which there is one; None where it is unknown."""
        return next((path for path, module in self.modules.items() if module.kind is kind), None)

    def paths_ending_with(self, name: str) -> list[str]:
        """What PEFT takes a name in modules_to_save or trainable_token_indices for.

        It matches with `endswith`, so `norm` is `input_layernorm` too, and it sees the modules that hold others.
        """
        paths = set(self.modules)
        for path in self.modules:
            parts = path.split(".")
            paths.update(".".join(parts[:end]) for end in range(1, len(parts)))
        return sorted(path for path in paths if path.endswith(name))
