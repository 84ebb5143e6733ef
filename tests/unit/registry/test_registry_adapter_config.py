"""What an adapter_config.json may say."""

import json
from typing import Any

import pytest

from services.common.errors import InvalidFieldError
from services.registry.admission.base_rules import parse_config
from services.registry.bases.base_model import BaseModel, BaseModule, ModuleKind, Price, Tokenizer

BASE = BaseModel(
    name="tiny",
    hub_ids=("org/Tiny", "twin/Tiny"),
    local_path="/base",
    hub_repo="",
    commit="c",
    context_length=512,
    max_lora_rank=64,
    target_modules=("q_proj",),
    price=Price(2, 2, 2),
    modules={
        "model.embed_tokens": BaseModule(ModuleKind.EMBEDDING, (100, 8)),
        "model.norm": BaseModule(ModuleKind.NORM, (8,)),
        "lm_head": BaseModule(ModuleKind.OUTPUT, (100, 8), 100),
    },
    tokenizer=Tokenizer(b"", "", {}),
)


def config(**changes: Any) -> bytes:
    return json.dumps(
        {"peft_type": "LORA", "base_model_name_or_path": "org/Tiny", "r": 8, "lora_alpha": 16, **changes}
    ).encode()


def refusal(data: bytes) -> InvalidFieldError:
    with pytest.raises(InvalidFieldError) as caught:
        parse_config(data, BASE)
    return caught.value


def test_a_twin_of_the_base_is_the_base() -> None:
    assert parse_config(config(base_model_name_or_path="Twin/tiny"), BASE).r == 8


@pytest.mark.parametrize("value", ["org/Other", None, 7, "", "/root/models/tiny"])
def test_another_base_is_refused(value: object) -> None:
    error = refusal(config(base_model_name_or_path=value))
    assert error.reason == "ADAPTER_BASE_MISMATCH"
    assert "org/Tiny, twin/Tiny" in error.message


def test_a_missing_rank_is_peft_s_default() -> None:
    without = json.loads(config())
    del without["r"]
    assert parse_config(json.dumps(without).encode(), BASE).rank_of("model.q_proj") == 8


@pytest.mark.parametrize("r", [0, -1, True, 8.0, "8", None])
def test_a_rank_that_is_no_positive_whole_number_is_refused(r: object) -> None:
    error = refusal(config(r=r))
    assert (error.reason, error.field) == ("ADAPTER_CONFIG_INVALID", "adapter_config.json: r")


def test_a_rank_above_the_cap_is_refused() -> None:
    error = refusal(config(r=65))
    assert error.reason == "ADAPTER_RANK_ABOVE_CAP"
    assert error.metadata["value"] == "65"
    assert "64" in error.metadata["bound"]


def test_the_cap_holds_for_each_pattern() -> None:
    error = refusal(config(rank_pattern={"q_proj": 128}))
    assert error.reason == "ADAPTER_RANK_ABOVE_CAP"
    assert "rank_pattern['q_proj']" in error.message


def test_a_module_takes_its_first_matching_pattern() -> None:
    parsed = parse_config(config(rank_pattern={"layers.1.q_proj": 16, "q_proj": 4}), BASE)
    assert [parsed.rank_of(path) for path in ("m.layers.1.q_proj", "m.layers.2.q_proj", "m.v_proj")] == [
        16,
        4,
        8,
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": r".*\.(q|v)_proj"},
        {"target_modules": "all-linear"},
        {"target_modules": None},
        {"exclude_modules": ["lm_head"], "layers_to_transform": [0, 1], "layers_pattern": "layers"},
        {"layers_to_transform": 3, "layers_pattern": ["layers", "h"]},
        {"use_rslora": True, "lora_alpha": 11.3},
        {"alpha_pattern": {"q_proj": 32, "v_proj": 0.5}},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
        {"bias": "none", "fan_in_fan_out": False, "lora_dropout": 0.1, "inference_mode": True},
        {"bias": "all", "fan_in_fan_out": True, "use_dora": True},
        {"bias": "lora_only", "lora_bias": True},
        {"modules_to_save": ["norm", "lm_head", "classifier"], "trainable_token_indices": [0, 99]},
        {"modules_to_save": None, "trainable_token_indices": None},
        {"trainable_token_indices": {"embed_tokens": [3]}, "ensure_weight_tying": False},
        {"task_type": "CAUSAL_LM", "peft_version": "0.99.0", "auto_mapping": {"a": "b"}, "revision": "x"},
        {"qalora_group_size": 16, "megatron_core": "megatron.core", "modules_to_save": []},
        {"a_setting_of_the_future": None, "another": False, "third": {}},
    ],
)
def test_what_the_engine_applies_passes(changes: dict[str, Any]) -> None:
    assert parse_config(config(**changes), BASE).r == 8


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "IA3"),
        ("peft_type", None),
        ("task_type", "SEQ_CLS"),
        ("bias", "lora_and_more"),
        ("bias", None),
        ("modules_to_save", ["model"]),
        ("trainable_token_indices", {"norm": [1]}),
        ("trainable_token_indices", {"lm_head": [1]}),
        ("target_parameters", ["experts.up"]),
        ("layer_replication", [[0, 4]]),
        ("alora_invocation_tokens", [5]),
        ("use_qalora", True),
        ("qalora_group_size", 32),
        ("use_bdlora", {"nblocks": 2}),
        ("kasa_config", {"a": 1}),
        ("arrow_config", {"a": 1}),
        ("monteclora_config", {"a": 1}),
        ("velora_config", {"a": 1}),
        ("megatron_config", {"a": 1}),
        ("ensure_weight_tying", True),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", 1),
        ("a_setting_of_the_future", 0),
        ("a_setting_of_the_future", "on"),
    ],
)
def test_any_other_setting_is_refused_by_name(key: str, value: object) -> None:
    error = refusal(config(**{key: value}))
    assert error.reason == "ADAPTER_UNSUPPORTED"
    assert error.field == f"adapter_config.json: {key}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora_alpha", "16"),
        ("lora_alpha", True),
        ("use_rslora", "yes"),
        ("use_rslora", 1),
        ("rank_pattern", ["q_proj"]),
        ("rank_pattern", {"q_proj": True}),
        ("rank_pattern", {"(": 4}),
        ("rank_pattern", {"(a+)+b": 4}),
        ("alpha_pattern", {"q_proj": "16"}),
        ("alpha_pattern", {"(.|.)(.|.)*": 4}),
        ("target_modules", {"q_proj": 1}),
        ("target_modules", ["q_proj", 1]),
        ("exclude_modules", 3),
        ("layers_pattern", 3),
        ("layers_to_transform", "0"),
        ("layers_to_transform", [True]),
        ("fan_in_fan_out", "yes"),
        ("use_dora", 1),
        ("lora_bias", None),
        ("modules_to_save", "lm_head"),
        ("modules_to_save", [""]),
        ("modules_to_save", [1]),
        ("trainable_token_indices", 1),
        ("trainable_token_indices", [True]),
        ("trainable_token_indices", [1, 1]),
        ("trainable_token_indices", [100]),
        ("trainable_token_indices", [-1]),
        ("trainable_token_indices", {"embed_tokens": 1}),
        ("trainable_token_indices", {"nowhere": [1]}),
        ("trainable_token_indices", {"": [1]}),
        ("trainable_token_indices", {"embed_tokens": [1], "model.embed_tokens": [1]}),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(key: str, value: object) -> None:
    error = refusal(config(**{key: value}))
    assert error.reason == "ADAPTER_CONFIG_INVALID"
    assert key in error.field


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"r": NaN}',
        b'{"r": Infinity}',
        b'{"r": 1e999}',
        b'{"r": 8, "r": 16}',
        b'{"rank_pattern": {"a": 1, "a": 2}}',
        b'{"a": ' * 100_000,
        b'{"r": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_strict_json_object_is_refused(data: bytes) -> None:
    error = refusal(data)
    assert (error.reason, error.field) == ("ADAPTER_CONFIG_INVALID", "adapter_config.json")


def test_a_hostile_key_is_shown_short_and_escaped() -> None:
    error = refusal(config(**{"\n" + "x" * 10_000: 1}))
    assert len(error.field) < 100
    assert "\n" not in error.message


def test_dora_and_lora_bias_exclude_each_other() -> None:
    error = refusal(config(use_dora=True, lora_bias=True))
    assert (error.reason, error.field) == ("ADAPTER_UNSUPPORTED", "adapter_config.json: lora_bias")


def test_a_name_to_save_stands_for_every_path_that_ends_with_it() -> None:
    assert parse_config(config(modules_to_save=["orm", "lm_head"]), BASE).saved == {"model.norm", "lm_head"}


def test_a_token_beyond_the_vocabulary_is_told_with_the_bound() -> None:
    error = refusal(config(trainable_token_indices=[5, 100]))
    assert error.metadata["value"] == "100"
    assert "0 to 99" in error.metadata["bound"]
