"""Adapters that PEFT itself makes, in every variant that is supported: each is admitted, and only whole."""

import asyncio
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from services.common.errors import InvalidFieldError
from services.registry.admission.base_rules import parse_config
from services.registry.admission.header_check import AdapterModules, check_header
from services.registry.bases.base_list import read_base_list
from services.registry.bases.base_model import BaseModel
from services.registry.bases.source_files import resolve_base
from services.registry.hub_reader import HubReader
from tests.support.models import write_tiny_base
from tests.support.registry import HUB_ID, Shapes, base_list, safetensors

# What PEFT has to say about the adapters made here.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "fan_in_fan_out is set", "Unsupported layer type", "Setting `save_embedding_layers`", "`lora_bias=True` was",
        "Adapter 'default'", ".*tie_word_embeddings", "Model has", ".*is_gradient_checkpointing",
    )
]  # fmt: skip

TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj", "embed_tokens", "lm_head"],
    "qwen2": ["q_proj", "v_proj", "down_proj", "embed_tokens", "lm_head"],
    "gpt2": ["c_attn", "c_proj", "c_fc", "wte", "lm_head"],
    "gpt_neox": ["query_key_value", "dense", "embed_in", "lm_head"],
}
"""What the bases let be adapted. qwen2 is tied, and has biases on q, k, v; gpt2 is Conv1D; gpt2 and gpt_neox
have biases everywhere but on the output layer."""

LLAMA_Q, QWEN_Q = (f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1))
GPT2_C = "transformer.h.1.attn.c_attn"
NEOX_QKV = "gpt_neox.layers.0.attention.query_key_value"
EMBED_ROWS = "model.embed_tokens.token_adapter.trainable_tokens_delta"
HEAD_ROWS = "lm_head.token_adapter.trainable_tokens_delta"


@dataclass(frozen=True)
class Variant:
    """What PEFT is asked for, and names that its file then has and has not."""

    family: str
    options: Mapping[str, Any]  # Any: LoraConfig's fields
    there: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    saving: Mapping[str, Any] = field(default_factory=dict)  # Any: save_pretrained's options


VARIANTS = {
    "plain": Variant("llama", {}, (f"{LLAMA_Q}.lora_A.weight", f"{LLAMA_Q}.lora_B.weight")),
    "dora": Variant("llama", {"use_dora": True}, (f"{LLAMA_Q}.lora_magnitude_vector",)),
    "dora everywhere": Variant(
        "llama",
        {"use_dora": True, "target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        (
            "model.embed_tokens.lora_magnitude_vector", "model.embed_tokens.base_layer.weight",
            "lm_head.lora_magnitude_vector", "lm_head.base_layer.weight",
        ),
    ),
    "lora_bias": Variant("llama", {"lora_bias": True}, (f"{LLAMA_Q}.lora_B.bias",)),
    "lora_bias and every bias": Variant(
        "qwen2",
        {"lora_bias": True, "bias": "all", "target_modules": ["q_proj"]},
        (f"{QWEN_Q}.lora_B.bias", f"{QWEN_Q}.base_layer.bias", "model.layers.1.self_attn.k_proj.bias"),
    ),
    "bias all": Variant(
        "qwen2",
        {"bias": "all"},
        (f"{QWEN_Q}.base_layer.bias", "model.layers.1.self_attn.k_proj.bias"),
        ("model.layers.1.mlp.down_proj.base_layer.bias",),
    ),
    "bias lora_only": Variant(
        "qwen2", {"bias": "lora_only"}, (f"{QWEN_Q}.base_layer.bias",), ("model.layers.1.self_attn.k_proj.bias",)
    ),
    "bias all where there is none": Variant("llama", {"bias": "all"}),
    "dora and biases": Variant("qwen2", {"use_dora": True, "bias": "all"}, (f"{QWEN_Q}.base_layer.bias",)),
    "fan_in_fan_out of a plain linear": Variant("llama", {"fan_in_fan_out": True}),
    "embedding": Variant(
        "llama",
        {"target_modules": ["q_proj", "embed_tokens"], "rank_pattern": {"embed_tokens": 2}},
        (
            "model.embed_tokens.lora_embedding_A", "model.embed_tokens.lora_embedding_B",
            "model.embed_tokens.base_layer.weight",
        ),
    ),
    "embedding without its copy": Variant(
        "llama",
        {"target_modules": ["q_proj", "embed_tokens"]},
        ("model.embed_tokens.lora_embedding_A",),
        ("model.embed_tokens.base_layer.weight",),
        {"save_embedding_layers": False},
    ),
    "output layer": Variant(
        "llama", {"target_modules": ["q_proj", "lm_head"]}, ("lm_head.lora_A.weight", "lm_head.base_layer.weight")
    ),
    "tied output layer": Variant(
        "qwen2", {"target_modules": ["q_proj", "lm_head"]}, ("lm_head.lora_A.weight", "lm_head.base_layer.weight")
    ),
    "tied embedding": Variant(
        "qwen2", {"target_modules": ["q_proj", "embed_tokens"]}, ("model.embed_tokens.lora_embedding_A",)
    ),
    "both of a tied pair": Variant(
        "qwen2",
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        ("model.embed_tokens.lora_embedding_A", "lm_head.lora_A.weight"),
    ),
    "norms saved": Variant(
        "llama",
        {"modules_to_save": ["norm"]},
        ("model.norm.weight", "model.layers.0.input_layernorm.weight"),
    ),
    "embedding and output layer saved": Variant(
        "llama",
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        ("model.embed_tokens.weight", "lm_head.weight"),
    ),
    "tied output layer saved": Variant("qwen2", {"modules_to_save": ["lm_head"]}, ("lm_head.weight",)),
    "tied embedding saved": Variant(
        "qwen2", {"modules_to_save": ["embed_tokens"]}, ("model.embed_tokens.weight",), ("lm_head.weight",)
    ),
    "output layer adapted, embedding saved": Variant(
        "llama",
        {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["embed_tokens"]},
        ("model.embed_tokens.weight", "lm_head.lora_A.weight"),
    ),
    "saved by a name that matches nothing": Variant("llama", {"modules_to_save": ["classifier"]}),
    "tokens": Variant("llama", {"trainable_token_indices": [9, 0, 5]}, (EMBED_ROWS,), (HEAD_ROWS,)),
    "tokens of the output layer": Variant(
        "llama", {"trainable_token_indices": {"lm_head": [4]}}, (HEAD_ROWS,), (EMBED_ROWS,)
    ),
    "tokens of both": Variant(
        "llama", {"trainable_token_indices": {"embed_tokens": [4, 5], "lm_head": [4, 5]}}, (EMBED_ROWS, HEAD_ROWS)
    ),
    "tokens of a tied pair": Variant("qwen2", {"trainable_token_indices": [4, 5]}, (EMBED_ROWS,), (HEAD_ROWS,)),
    "the same tokens of a tied pair by name": Variant(
        "qwen2",
        {"trainable_token_indices": {"embed_tokens": [4, 5], "lm_head": [4, 5]}},
        (EMBED_ROWS,),
        (HEAD_ROWS,),
    ),
    "other tokens of a tied pair by name": Variant(
        "qwen2", {"trainable_token_indices": {"embed_tokens": [4, 5], "lm_head": [6]}}, (EMBED_ROWS, HEAD_ROWS)
    ),
    "tokens of a tied output layer alone": Variant(
        "qwen2", {"trainable_token_indices": {"lm_head": [6]}}, (HEAD_ROWS,), (EMBED_ROWS,)
    ),
    "Conv1D": Variant("gpt2", {}, (f"{GPT2_C}.lora_A.weight",)),
    "Conv1D that says so": Variant("gpt2", {"fan_in_fan_out": True}, (f"{GPT2_C}.lora_A.weight",)),
    "Conv1D with dora": Variant(
        "gpt2", {"fan_in_fan_out": True, "use_dora": True}, (f"{GPT2_C}.lora_magnitude_vector",)
    ),
    "Conv1D with every bias": Variant(
        "gpt2",
        {"fan_in_fan_out": True, "bias": "all", "target_modules": ["c_attn"]},
        (f"{GPT2_C}.base_layer.bias", "transformer.h.1.mlp.c_fc.bias", "transformer.ln_f.bias"),
    ),
    "GPT-2 with all that is beside its linears": Variant(
        "gpt2",
        {
            "target_modules": ["c_attn", "wte", "lm_head"],
            "modules_to_save": ["ln_1", "ln_f"],
        },
        (
            "transformer.wte.lora_embedding_A", "lm_head.lora_A.weight",
            "transformer.ln_f.weight", "transformer.ln_f.bias",
        ),
    ),
    "GPT-NeoX": Variant(
        "gpt_neox",
        {
            "target_modules": ["query_key_value", "lm_head"],
            "bias": "all",
            "trainable_token_indices": {"embed_in": [7]},
        },
        (
            f"{NEOX_QKV}.base_layer.bias", "gpt_neox.final_layer_norm.bias", "lm_head.lora_A.weight",
            "gpt_neox.embed_in.token_adapter.trainable_tokens_delta",
        ),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


@cache
def base_of(bases: Path, family: str) -> BaseModel:
    folder = write_tiny_base(bases / family, family=family)
    listed = bases / f"{family}.toml"
    listed.write_text(base_list(folder, max_lora_rank=64, target_modules=TARGETS[family]))
    return asyncio.run(
        resolve_base(read_base_list(listed)[0], HubReader("http://127.0.0.1:9", patience=0), "")
    )


def save_with_peft(variant: Variant, base_folder: Path, folder: Path) -> tuple[bytes, Shapes]:
    """Let PEFT write the variant with all that it trains changed; its config and its tensors' shapes."""
    import torch  # noqa: PLC0415
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    options = {
        "target_modules": TARGETS[variant.family][:2],
        "r": 4,
        "task_type": "CAUSAL_LM",
        **variant.options,
    }
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_folder), LoraConfig(**options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(str(folder), **variant.saving)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = HUB_ID
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        shapes = {name: (one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()}
    return json.dumps(config).encode(), shapes


def admit(config: bytes, tensors: Shapes, base: BaseModel) -> AdapterModules:
    data = safetensors(tensors)
    end = 8 + int(struct.unpack("<Q", data[:8])[0])
    return check_header(data[8:end], file_size=len(data), fitted=parse_config(config, base), base=base)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_peft_saves_of_a_supported_variant_is_admitted_and_only_whole(
    bases: Path, tmp_path: Path, name: str
) -> None:
    variant = VARIANTS[name]
    base = base_of(bases, variant.family)
    config, tensors = save_with_peft(variant, bases / variant.family, tmp_path)
    names = {one.removeprefix("base_model.model.") for one in tensors}
    assert names >= set(variant.there)
    assert not names & set(variant.absent)
    assert admit(config, tensors, base).rank == 4
    for one in tensors:
        rest = {other: entry for other, entry in tensors.items() if other != one}
        if one.endswith("base_layer.weight"):
            admit(config, rest, base)
            continue
        with pytest.raises(InvalidFieldError) as caught:
            admit(config, rest, base)
        assert caught.value.reason == "ADAPTER_TENSORS_INVALID"


UNSUPPORTED = {
    "tokens where the tied output layer is adapted": Variant(
        "qwen2", {"target_modules": ["q_proj", "lm_head"], "trainable_token_indices": [4]}
    ),
    "tokens where the tied output layer is saved": Variant(
        "qwen2", {"modules_to_save": ["lm_head"], "trainable_token_indices": [4]}
    ),
    "a bias both saved and trained as a bias": Variant(
        "gpt2", {"target_modules": ["c_attn"], "modules_to_save": ["ln_f"], "bias": "all"}
    ),
    "a projection saved": Variant("llama", {"modules_to_save": ["k_proj"]}),
    "tied on purpose": Variant(
        "qwen2", {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_peft_can_do_and_the_engine_cannot_is_refused_by_name(
    bases: Path, tmp_path: Path, name: str
) -> None:
    variant = UNSUPPORTED[name]
    base = base_of(bases, variant.family)
    config, tensors = save_with_peft(variant, bases / variant.family, tmp_path)
    with pytest.raises(InvalidFieldError) as caught:
        admit(config, tensors, base)
    assert caught.value.reason == "ADAPTER_UNSUPPORTED"
    assert caught.value.field.removeprefix("adapter_config.json: ") in variant.options
