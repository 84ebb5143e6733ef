"""A setting that is not applied is refused, by name; what a config promises must be in the file."""

import math
from pathlib import Path
from typing import Any

import pytest
from peft.utils.other import get_pattern_key

from services.common.errors import InvalidFieldError
from services.worker.engine.local.adapters.config_reader import read_config
from tests.support.adapter_files import (
    DOWN,
    HEAD,
    NORM,
    Q,
    loader,
    write,
)


def test_patterns_give_each_module_its_rank_and_scale(tmp_path: Path) -> None:
    write(tmp_path, r=4, lora_alpha=8, rank_pattern={"down_proj": 16, "q_proj": 2}, alpha_pattern={Q: 3})
    config = read_config(tmp_path)
    assert (config.rank_of(Q), config.scale_of(Q)) == (2, 1.5)
    assert (config.rank_of(DOWN), config.scale_of(DOWN)) == (16, 0.5)
    assert (config.rank_of("model.layers.0.mlp.up_proj"), config.scale_of("up_proj")) == (4, 2.0)


def test_rank_stabilised_scale_divides_by_the_root_of_the_modules_own_rank(tmp_path: Path) -> None:
    write(tmp_path, r=4, lora_alpha=8, rank_pattern={"down_proj": 16}, use_rslora=True)
    config = read_config(tmp_path)
    assert (config.scale_of(Q), config.scale_of(DOWN)) == (4.0, 2.0)


@pytest.mark.parametrize(
    "patterns",
    [
        ["q_proj"],
        ["proj"],
        ["layers.0.self_attn.q_proj"],
        ["^model.layers.0.self_attn.q_proj"],
        [r".*layers\.1.*down_proj"],
        ["down_proj", ".*proj"],
        [".*proj", "down_proj"],
        ["model"],
        ["up_proj|down_proj"],
        [r"layers\.[0-9]+\.mlp\..*"],
    ],
)
def test_patterns_match_as_pefts_do(tmp_path: Path, patterns: list[str]) -> None:
    write(tmp_path, rank_pattern={pattern: 100 + place for place, pattern in enumerate(patterns)})
    config = read_config(tmp_path)
    for path in (Q, DOWN, "model.layers.1.mlp.up_proj", "lm_head"):
        key = get_pattern_key(patterns, path)
        assert config.rank_of(path) == (100 + patterns.index(key) if key in patterns else 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "LOHA"),
        ("peft_type", None),
        ("use_dora", "yes"),
        ("bias", "some"),
        ("bias", ["all"]),
        ("lora_bias", 1),
        ("modules_to_save", "lm_head"),
        ("modules_to_save", ["q_proj"]),  # only norms, embeddings and the output layer may be saved whole
        ("modules_to_save", ["model"]),
        ("trainable_token_indices", [3, 3]),
        ("trainable_token_indices", [True]),
        ("trainable_token_indices", {"embed_tokens": 3}),
        ("target_parameters", ["mlp.experts"]),
        ("layer_replication", [[0, 1]]),
        ("alora_invocation_tokens", [5]),
        ("use_qalora", True),
        ("qalora_group_size", 32),
        ("use_bdlora", {"nblocks": 2}),
        ("kasa_config", {"beta": 1}),
        ("arrow_config", {"top_k": 2}),
        ("velora_config", {"scale": 2}),
        ("monteclora_config", {"num_samples": 4}),
        ("megatron_config", {"a": 1}),
        ("ensure_weight_tying", True),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", 1),
        ("whatever_comes_next", 0.5),
        ("r", 0),
        ("r", True),
        ("r", 2.0),
        ("lora_alpha", "8"),
        ("lora_alpha", math.inf),
        ("use_rslora", "yes"),
        ("rank_pattern", {"q_proj": 0}),
        ("rank_pattern", ["q_proj"]),
        ("alpha_pattern", {"q_proj": None}),
        ("alpha_pattern", {"(": 3}),
    ],
)
def test_a_setting_that_is_not_applied_is_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        loader().load(write(tmp_path, **{key: value}))
    assert key in caught.value.field


def test_settings_that_change_nothing_are_taken(tmp_path: Path) -> None:
    loader().load(
        write(
            tmp_path,
            task_type="CAUSAL_LM",
            lora_dropout=0.1,
            target_modules="all-linear",
            exclude_modules=["lm_head"],
            layers_to_transform=[0, 11],
            layers_pattern="layers",
            fan_in_fan_out=True,
            init_lora_weights="gaussian",
            bias="none",
            rank_pattern=None,
            megatron_core="megatron.core",
            whatever_comes_next=None,
        )
    )


@pytest.mark.parametrize("text", ["", "[1]", "{", "null", "\xff"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    files = write(tmp_path)
    (tmp_path / "adapter_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidFieldError, match=r"adapter_config\.json"):
        loader().load(files)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"use_dora": True}, f"{Q}.lora_magnitude_vector"),
        ({"lora_bias": True}, f"{Q}.lora_B.bias"),
        ({"use_dora": True, "lora_bias": True}, "lora_bias"),
        ({"bias": "lora_only"}, f"{Q}.base_layer.bias"),
        ({"modules_to_save": ["lm_head"]}, f"{HEAD}.weight"),
        ({"modules_to_save": ["norm"]}, f"{NORM}.weight"),
        ({"trainable_token_indices": [3]}, "trainable_tokens_delta"),
        ({"trainable_token_indices": {"lm_head": [3]}}, "trainable_tokens_delta"),
    ],
)
def test_a_tensor_that_the_config_promises_must_be_there(
    tmp_path: Path, config: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        loader().load(write(tmp_path, **config))
    assert named in caught.value.field
