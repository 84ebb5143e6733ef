"""Configs as each PEFT release and each trainer writes them; PEFT itself says what they mean.

`peft_releases.json`: what LoraConfig.save_pretrained of that release wrote for the same arguments. `trainers.json`: what
PEFT 0.21 wrote for the arguments that the trainers pass (read from their releases of November 2026), or what they write
themselves.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, PeftConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.other import get_pattern_key
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from services.common.adapters import config as rules
from services.common.adapters.patterns import PatternTable
from services.common.adapters.targets import BaseModules
from services.common.errors import InvalidFieldError

TABLES = Path(__file__).parent / "adapter_configs"
RELEASES: dict[str, dict[str, Any]] = json.loads((TABLES / "peft_releases.json").read_text())
TRAINERS: dict[str, dict[str, Any]] = json.loads((TABLES / "trainers.json").read_text())
REFUSED = {
    "LLaMA-Factory, PiSSA": ("ADAPTER_UNSUPPORTED", "init_lora_weights"),
    "PEFT, LoftQ": ("ADAPTER_UNSUPPORTED", "init_lora_weights"),
    "PEFT, activated LoRA": ("ADAPTER_UNSUPPORTED", "alora_invocation_tokens"),
    "PEFT, layers twice": ("ADAPTER_UNSUPPORTED", "layer_replication"),
    "MLX": ("ADAPTER_UNSUPPORTED", "peft_type"),
}
PATTERNS = [
    ["q_proj"],
    ["proj"],
    ["layers.1.self_attn.q_proj", "q_proj"],
    ["^model.layers.0.self_attn.q_proj", "layers.0.mlp.up_proj"],
    [r"layers\.\d+\.mlp\.up_proj", "q_proj"],
    ["layers.(0|1).*", ".*"],
    [".*proj", "down_proj"],
    ["up_proj|down_proj"],
    ["model.layers.1"],
    [".self_attn.q_proj"],
]


def base() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )


def modules_of(model: PreTrainedModel) -> BaseModules:
    paths = [path for path, module in model.named_modules() if next(module.parameters(), None) is not None]
    linears = [path for path, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    return BaseModules(model.config.model_type, paths, set(linears) - {"lm_head"})


@pytest.fixture(scope="module")
def modules() -> BaseModules:
    return modules_of(base())


ACCEPTED = [
    *(pytest.param(one, id=f"PEFT {release}") for release, one in RELEASES.items()),
    *(pytest.param(one, id=name) for name, one in TRAINERS.items() if name not in REFUSED),
]


@pytest.mark.parametrize("written", ACCEPTED)
def test_each_module_has_the_rank_and_scale_that_peft_gives_it(
    written: dict[str, Any], modules: BaseModules, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(written))
    ours = rules.parse_config((tmp_path / "adapter_config.json").read_bytes(), modules)
    config = PeftConfig.from_pretrained(str(tmp_path))
    model = get_peft_model(base(), config)
    adapted = {
        path.removeprefix("base_model.model."): module
        for path, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    assert adapted
    assert {path for path in modules.paths if not ours.targets.why_not(path)} == adapted.keys()
    for path, layer in adapted.items():
        assert (ours.rank_of(path), ours.scale_of(path)) == (layer.r["default"], layer.scaling["default"])
        assert ours.dora == layer.use_dora["default"]
    saved = {
        path.removeprefix("base_model.model.").removesuffix(".modules_to_save")
        for path, _ in model.named_modules()
        if path.endswith(".modules_to_save")
    }
    assert {path for path in modules.paths if ours.saves(path)} == saved


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_applied_is_refused_by_its_key(name: str, modules: BaseModules) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        rules.parse_config(json.dumps(TRAINERS[name]).encode(), modules)
    reason, key = REFUSED[name]
    assert (caught.value.reason, caught.value.field) == (reason, f"adapter_config.json: {key}")


@pytest.mark.parametrize("key", sorted({key for one in RELEASES.values() for key in one} - {"peft_type"}))
def test_null_is_not_said(key: str, modules: BaseModules) -> None:
    """axolotl writes null for what its users leave empty (registry review 6)."""
    (release,) = [one for name, one in RELEASES.items() if name == "0.21.0"]
    without = {name: value for name, value in release.items() if name != key}
    absent, null = (
        rules.parse_config(json.dumps(one).encode(), modules) for one in (without, {**without, key: None})
    )
    values = [
        {
            field.name: value.items() if isinstance(value, PatternTable) else value
            for field in dataclasses.fields(one)
            if field.name != "targets"
            for value in (getattr(one, field.name),)
        }
        for one in (absent, null)
    ]
    assert values[0] == values[1]


def test_every_setting_of_peft_is_known_to_be_applied_inert_or_off_by_default(tmp_path: Path) -> None:
    LoraConfig(base_model_name_or_path="org/Tiny", target_modules=["q_proj"]).save_pretrained(str(tmp_path))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    assert fields >= rules.APPLIED | rules.INERT
    for key in fields - rules.APPLIED - rules.INERT:
        assert rules.is_default(key, config.get(key)), key


@pytest.mark.parametrize("keys", PATTERNS)
def test_a_module_takes_the_pattern_that_peft_gives_it(keys: list[str], modules: BaseModules) -> None:
    table = PatternTable("rank_pattern", {key: 100 + place for place, key in enumerate(keys)}, modules.paths)
    for path in modules.paths:
        key = get_pattern_key(keys, path)
        assert table.number_of(path) == (100 + keys.index(key) if key in keys else None)
