"""Base models of known shapes with random weights, for what takes as long whatever is said."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

_SPREAD = 4.2
"""Standard deviation of its logits. Of V normal ones the entropy is about ln V - spread^2 / 2: at V = 152k and temperature
1 that is 3 nats a token, as of English text; with the usual initial weights nearly all tokens would be as likely."""


@dataclass(frozen=True)
class Shape:
    """A model's name, and its config."""

    name: str
    config: dict[str, Any] = field(hash=False)


QWEN = Shape(
    "qwen2.5-0.5b",
    {
        "model_type": "qwen2", "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4_864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "max_position_embeddings": 2_048,
    },
)  # fmt: skip
GEMMA = Shape(
    "gemma-3-270m",
    {
        "model_type": "gemma3_text", "vocab_size": 262_144, "hidden_size": 640, "intermediate_size": 2_048,
        "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
        "max_position_embeddings": 2_048,
    },
)  # fmt: skip


def make_random_base(shape: Shape, folder: Path) -> Path:
    """A model of `shape` in bfloat16 below `folder`, made where it is not there yet. Returns its own folder."""
    made = folder / shape.name
    if not (made / "model.safetensors").exists():
        config = AutoConfig.for_model(**shape.config, tie_word_embeddings=False)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(1)
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
            # The last norm leaves numbers of mean square 1.
            model.lm_head.weight.normal_(std=_SPREAD / math.sqrt(shape.config["hidden_size"]))
        model.save_pretrained(made)
    return made
