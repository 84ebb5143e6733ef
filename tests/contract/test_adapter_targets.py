"""Which modules a config has LoRA on: PEFT says it, by wrapping a model."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from services.common.adapters.config import AdapterConfig, parse_config
from services.common.errors import InvalidFieldError
from tests.contract.test_adapter_configs import modules_of

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
}
FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_hidden_layers=12)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_hidden_layers=2, num_key_value_heads=2)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    ),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, num_hidden_layers=2)),
}
CASES: list[dict[str, Any]] = [
    {"target_modules": None},
    {"target_modules": "all-linear"},
    {"target_modules": "All-Linear", "exclude_modules": ["down_proj"]},
    {"target_modules": ["q_proj", "v_proj"]},
    {"target_modules": ["proj"]},
    {"target_modules": ["self_attn.q_proj", "model.layers.3.mlp.up_proj", "lm_head", "embed_tokens"]},
    {"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["q_proj"]},
    {"target_modules": ["q_proj", "up_proj"], "exclude_modules": r"model\.layers\.[0-5]\..*"},
    {"target_modules": ["q_proj"], "exclude_modules": "q_proj"},
    {"target_modules": ["q_proj"], "exclude_modules": []},
    {"target_modules": ["q_proj"], "layers_to_transform": 1},
    {"target_modules": ["q_proj", "lm_head"], "layers_to_transform": [0, 11, 99]},
    {"target_modules": ["q_proj"], "layers_to_transform": [], "layers_pattern": None},
    {"target_modules": ["q_proj"], "layers_to_transform": [1, 2], "layers_pattern": "layers"},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h", "layers"]},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": []},
    {"target_modules": r".*\.(q|v)_proj"},
    {"target_modules": r".*\.layers\.1\..*(q_proj|k_proj|v_proj|o_proj)"},
    {"target_modules": r"model\.layers\.(?!1\.|2\.)\d+\.self_attn\.(q_proj|o_proj)"},
    {"target_modules": r"^(?!.*lm_head).*(?<=self_attn\.)(q_proj|k_proj)$"},
    {
        "target_modules": r"(?:.*?(?:vision|image|visual|patch_embed|language|text).*?(?:self_attn|attention|attn|mlp|"
        r"feed_forward|ffn|dense).*?(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*?)|"
        r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|k_proj)))"
    },
    {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]},
    {"target_modules": ["q_proj", "norm"], "modules_to_save": ["norm"]},
]


def ours(model: PreTrainedModel, **config: Any) -> AdapterConfig:
    return parse_config(json.dumps({"peft_type": "LORA", **config}).encode(), modules_of(model))


def wrapped(model: PreTrainedModel, **config: Any) -> set[str]:
    tuned = get_peft_model(model, LoraConfig(r=2, **config))
    return {
        path.removeprefix("base_model.model.")
        for path, module in tuned.named_modules()
        if isinstance(module, LoraLayer)
    }


@pytest.mark.parametrize("config", CASES, ids=str)
def test_lora_is_where_peft_puts_it(config: dict[str, Any]) -> None:
    model = FAMILIES["llama"]()
    base = modules_of(model)
    targets = ours(model, **config).targets
    found = {path for path in base.paths if not targets.why_not(path)}
    try:
        expected = wrapped(model, **config)
    except ValueError:
        expected = set()  # PEFT trains nothing with it
    assert found == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", [None, "all-linear"])
def test_of_each_family_too(family: str, target: str | None) -> None:
    model = FAMILIES[family]()
    targets = ours(model, target_modules=target).targets
    found = {path for path in modules_of(model).paths if not targets.why_not(path)}
    assert found == wrapped(model, target_modules=target)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"target_modules": "q_proj", "layers_to_transform": [1]}, "layers_to_transform"),
        ({"target_modules": "q_proj", "layers_pattern": "layers"}, "layers_pattern"),
        ({"target_modules": ["q_proj"], "layers_pattern": "layers"}, "layers_pattern"),
    ],
)
def test_what_peft_takes_for_an_error_is_one(config: dict[str, Any], key: str) -> None:
    model = FAMILIES["llama"]()
    with pytest.raises(ValueError):  # noqa: PT011 - PEFT's own
        LoraConfig(**config)
    with pytest.raises(InvalidFieldError) as caught:
        ours(model, **config)
    assert caught.value.field == f"adapter_config.json: {key}"
