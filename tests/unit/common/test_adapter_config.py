"""What every service and engine of ours takes an adapter_config.json to say."""

import json
from typing import Any

import pytest

from services.common.adapters.config import MAX_BYTES, AdapterConfig, parse_config
from services.common.adapters.targets import BaseModules
from services.common.errors import InvalidFieldError

PATHS = [f"model.layers.{layer}.{part}" for layer in range(12) for part in ("q_proj", "v_proj", "down_proj")]
BASE = BaseModules("llama", PATHS, PATHS)
Q, DOWN = "model.layers.0.q_proj", "model.layers.11.down_proj"


def config(**changes: Any) -> bytes:
    return json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 16, **changes}).encode()


def parse(**changes: Any) -> AdapterConfig:
    return parse_config(config(**changes), BASE)


def refusal(**changes: Any) -> InvalidFieldError:
    with pytest.raises(InvalidFieldError) as caught:
        parse(**changes)
    return caught.value


def test_patterns_give_each_module_its_rank_and_scale() -> None:
    one = parse(r=4, lora_alpha=8, rank_pattern={"down_proj": 16, "q_proj": 2}, alpha_pattern={Q: 3})
    assert (one.rank_of(Q), one.scale_of(Q)) == (2, 1.5)
    assert (one.rank_of(DOWN), one.scale_of(DOWN)) == (16, 0.5)
    assert (one.rank_of("model.layers.0.v_proj"), one.scale_of("model.layers.0.v_proj")) == (4, 2.0)


def test_rank_stabilised_scale_divides_by_the_root_of_the_modules_own_rank() -> None:
    one = parse(r=4, lora_alpha=8, rank_pattern={"down_proj": 16}, use_rslora=True)
    assert (one.scale_of(Q), one.scale_of(DOWN)) == (4.0, 2.0)


def test_a_module_takes_its_first_matching_pattern() -> None:
    one = parse(rank_pattern={"layers.1.q_proj": 16, "q_proj": 4})
    paths = ("model.layers.1.q_proj", "model.layers.2.q_proj", "model.layers.1.v_proj")
    assert [one.rank_of(path) for path in paths] == [16, 4, 8]


def test_a_name_to_save_stands_for_every_path_that_ends_with_it() -> None:
    one = parse(modules_to_save=["norm", "lm_head"])
    assert [one.saves(path) for path in ("model.layers.0.post_layernorm", "lm_head", "norm.inner")] == [
        True,
        True,
        False,
    ]
    assert not parse(modules_to_save=[]).saves("lm_head")


def test_tokens_are_of_the_input_embedding_unless_a_module_is_named() -> None:
    assert parse(trainable_token_indices=[3, 1]).token_ids == {"": (3, 1)}
    assert parse(trainable_token_indices={"wte": [3], "lm_head": []}).token_ids == {"wte": (3,)}
    assert parse(trainable_token_indices=[]).token_ids == {}


@pytest.mark.parametrize("alpha", [0, -1, 1_000_000, -1e6, 0.25])
def test_any_scale_that_does_not_overflow_is_taken(alpha: float) -> None:
    assert parse(lora_alpha=alpha).scale_of(Q) == alpha / 8


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("modules_to_save", [f"n{number}" for number in range(1000)]),
        ("trainable_token_indices", {f"n{number}": [1] for number in range(1000)}),
        ("rank_pattern", {f"n{number}": 4 for number in range(1000)}),
        ("alpha_pattern", {f"n{number}": 4 for number in range(1000)}),
        ("layers_pattern", [f"n{number}" for number in range(1000)]),
    ],
)
def test_there_are_no_more_names_than_the_base_can_have_modules_for(key: str, value: object) -> None:
    error = refusal(**{"layers_to_transform": [0], key: value})
    assert error.field == f"adapter_config.json: {key}"
    assert "1000 " in error.message


def test_a_hundred_thousand_targets_are_looked_up_by_the_paths_own_ends() -> None:
    names = [f"n{number}" for number in range(100_000)]
    targets = parse_config(config(target_modules=[*names[:60_000], "q_proj"]), BASE).targets
    assert (targets.why_not(Q), targets.why_not(DOWN)) == ("", "target_modules")


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse_config(b"\xef\xbb\xbf" + config(), BASE).r == 8


def test_a_config_of_megabytes_is_refused_before_it_is_read() -> None:
    with pytest.raises(InvalidFieldError, match=f"at most {MAX_BYTES} bytes"):
        parse_config(config(auto_mapping="x" * MAX_BYTES), BASE)


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
        {"task_type": "CAUSAL_LM", "peft_version": "0.99.0", "auto_mapping": {"a": "b"}},
        {"qalora_group_size": 16, "megatron_core": "megatron.core", "modules_to_save": []},
        {"a_setting_of_the_future": None, "another": False, "third": {}},
    ],
)
def test_what_the_engine_applies_passes(changes: dict[str, Any]) -> None:
    assert parse(**changes).r == 8


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "IA3"),
        ("bias", ["all"]),
        ("peft_type", None),
        ("task_type", "SEQ_CLS"),
        ("bias", "lora_and_more"),
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
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", 1),
        ("a_setting_of_the_future", 0),
        ("a_setting_of_the_future", "on"),
    ],
)
def test_any_other_setting_is_refused_by_name(key: str, value: object) -> None:
    error = refusal(**{key: value})
    assert error.reason == "ADAPTER_UNSUPPORTED"
    assert error.field == f"adapter_config.json: {key}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 0),
        ("r", -1),
        ("r", True),
        ("r", 8.0),
        ("r", "8"),
        ("r", 65_537),
        ("r", 10**400),
        ("lora_alpha", "16"),
        ("lora_alpha", 10**400),
        ("lora_alpha", 1e300),
        ("lora_alpha", -1_000_001),
        ("lora_alpha", True),
        ("use_rslora", "yes"),
        ("use_rslora", 1),
        ("rank_pattern", ["q_proj"]),
        ("rank_pattern", {"q_proj": True}),
        ("rank_pattern", {"q_proj": 0}),
        ("rank_pattern", {"q_proj": None}),
        ("alpha_pattern", {"q_proj": None}),
        ("alpha_pattern", {"q_proj": 1e7}),
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
        ("modules_to_save", "lm_head"),
        ("modules_to_save", [""]),
        ("modules_to_save", [1]),
        ("trainable_token_indices", 1),
        ("trainable_token_indices", [True]),
        ("trainable_token_indices", [1, 1]),
        ("trainable_token_indices", {"embed_tokens": 1}),
        ("trainable_token_indices", {"": [1]}),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(key: str, value: object) -> None:
    error = refusal(**{key: value})
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
    with pytest.raises(InvalidFieldError) as caught:
        parse_config(data, BASE)
    error = caught.value
    assert (error.reason, error.field) == ("ADAPTER_CONFIG_INVALID", "adapter_config.json")


def test_a_hostile_key_is_shown_short_and_escaped() -> None:
    error = refusal(**{"\n" + "x" * 10_000: 1})
    assert len(error.field) < 100
    assert "\n" not in error.message


def test_dora_and_lora_bias_exclude_each_other() -> None:
    error = refusal(use_dora=True, lora_bias=True)
    assert (error.reason, error.field) == ("ADAPTER_UNSUPPORTED", "adapter_config.json: lora_bias")
