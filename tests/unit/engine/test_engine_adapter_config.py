"""The rules of adapter configs hold for the engine too; what a config promises must be in the file."""

import math
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import InvalidFieldError
from tests.support.adapter_files import (
    HEAD,
    NORM,
    Q,
    loader,
    write,
)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "LOHA"),
        ("modules_to_save", ["q_proj"]),  # only norms, embeddings and the output layer may be saved whole
        ("modules_to_save", ["model"]),
        ("whatever_comes_next", 0.5),
        ("r", 0),
        ("lora_alpha", math.inf),
        ("lora_alpha", 10**400),
        ("alpha_pattern", {"(": 3}),
    ],
)
def test_a_setting_that_is_not_applied_is_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        loader().load(write(tmp_path, **{key: value}))
    assert caught.value.field.startswith("adapter_config.json")
    assert key in caught.value.message or "Infinity" in caught.value.message


def test_settings_that_change_nothing_are_taken(tmp_path: Path) -> None:
    loader().load(
        write(
            tmp_path,
            task_type="CAUSAL_LM",
            lora_dropout=0.1,
            target_modules=["q_proj", "down_proj"],
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
