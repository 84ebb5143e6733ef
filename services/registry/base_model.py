"""A base model as the registry knows it once its files have been looked at."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Price:
    """Pico-USD for one token. Even, so that LoRA's 3/2 of it is whole."""

    prompt: int
    completion: int

    def for_lora(self) -> "Price":
        """Exactly 3/2 of this."""
        return Price(self.prompt * 3 // 2, self.completion * 3 // 2)


@dataclass(frozen=True)
class ModuleShape:
    """A linear module's weight is [out_features, in_features]."""

    out_features: int
    in_features: int


@dataclass(frozen=True)
class Tokenizer:
    """What turns text into this base's token ids."""

    tokenizer_json: bytes
    chat_template: str
    """Jinja; empty where the base has none."""
    special_tokens: Mapping[str, str]
    """By the names that templates use: bos_token, eos_token, ..."""


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
    modules: Mapping[str, ModuleShape]
    """By path (`model.layers.0.self_attn.q_proj`): every 2-D weight that the base's files hold."""
    tokenizer: Tokenizer
