"""The registry reads adapter configs without PEFT; here PEFT itself says whether it reads them right."""

import dataclasses
import json
from pathlib import Path

import pytest
from peft import LoraConfig
from peft.utils.other import get_pattern_key

from services.common.adapters import patterns
from services.registry.admission import base_rules
from services.registry.bases.base_model import BaseModel, Price, Tokenizer

BASE = BaseModel(
    name="tiny",
    hub_ids=("org/Tiny",),
    local_path="/base",
    hub_repo="",
    commit="c",
    context_length=512,
    max_lora_rank=64,
    target_modules=("q_proj",),
    price=Price(2, 2, 2),
    modules={},
    tokenizer=Tokenizer(b"", "", {}),
)
PATHS = [
    f"model.layers.{layer}.{part}" for layer in (0, 1, 11) for part in ("self_attn.q_proj", "mlp.up_proj")
]
PATTERNS = [
    ["q_proj"],
    ["layers.1.self_attn.q_proj", "q_proj"],
    ["^model.layers.0.self_attn.q_proj", "layers.0.mlp.up_proj"],
    [r"layers\.\d+\.mlp\.up_proj", "q_proj"],
    ["layers.(0|1).*", ".*"],
    ["proj"],
    ["model.layers.1"],
    [".self_attn.q_proj"],
]


def written(folder: Path, config: LoraConfig) -> bytes:
    config.save_pretrained(str(folder))
    return (folder / "adapter_config.json").read_bytes()


def test_every_setting_of_peft_is_known_to_be_applied_inert_or_off_by_default(tmp_path: Path) -> None:
    config = json.loads(
        written(tmp_path, LoraConfig(base_model_name_or_path="org/Tiny", target_modules=["q_proj"]))
    )
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    assert fields >= base_rules.APPLIED | base_rules.INERT
    for key in fields - base_rules.APPLIED - base_rules.INERT:
        assert base_rules._is_default(key, config.get(key)), key


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", use_rslora=True),
        LoraConfig(r=64, target_modules=["q_proj"], layers_to_transform=[0, 1], layers_pattern="layers"),
        LoraConfig(
            target_modules=["q_proj"],
            exclude_modules=["lm_head"],
            rank_pattern={"q_proj": 4},
            alpha_pattern={"q_proj": 2.5},
            lora_dropout=0.05,
            init_lora_weights="gaussian",
        ),
        LoraConfig(task_type="CAUSAL_LM", target_modules=r".*\.(q|v)_proj"),
    ],
)
def test_what_peft_writes_of_what_is_applied_passes(tmp_path: Path, config: LoraConfig) -> None:
    config.base_model_name_or_path = "org/Tiny"
    assert base_rules.parse_config(written(tmp_path, config), BASE).r == config.r


@pytest.mark.parametrize("keys", PATTERNS)
def test_a_module_takes_the_pattern_that_peft_gives_it(keys: list[str]) -> None:
    for path in PATHS:
        expected = get_pattern_key(keys, path)
        assert (patterns.first_match(keys, path) or path) == expected
