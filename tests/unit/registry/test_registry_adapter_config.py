"""What a base adds to the rules of an adapter_config.json."""

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
    assert parse_config(config(base_model_name_or_path="Twin/tiny"), BASE).config.r == 8


@pytest.mark.parametrize(
    "name",
    [
        "org/Tiny/",
        "org/tiny-bnb-4bit",
        "org/Tiny-unsloth-bnb-4bit",
        "/root/.cache/huggingface/hub/models--org--Tiny/snapshots/0e9e39f249a16976918f6564b8830bc894c89659",
        "models--twin--Tiny",
        " org/Tiny",
    ],
)
def test_the_base_is_known_however_trainers_spell_it(name: str) -> None:
    assert parse_config(config(base_model_name_or_path=name), BASE).config.r == 8


@pytest.mark.parametrize("value", ["org/Other", None, 7, "/mnt/models/Tiny", "org/Tiny-v2"])
def test_its_owner_may_say_that_an_adapter_is_for_this_base(value: object) -> None:
    data = config(base_model_name_or_path=value, revision="step3000")
    assert parse_config(data, BASE, accept_base_name=True).config.r == 8
    assert "accept_base_name" in refusal(data).message


@pytest.mark.parametrize("revision", [None, "", "main", "c"])
def test_a_revision_of_the_base_that_is_this_one_passes(revision: str | None) -> None:
    assert parse_config(config(revision=revision), BASE).config.r == 8


@pytest.mark.parametrize("revision", ["step3000", "v2", 3])
def test_another_revision_of_the_base_is_another_model(revision: object) -> None:
    error = refusal(config(revision=revision))
    assert (error.reason, error.field) == ("ADAPTER_BASE_MISMATCH", "adapter_config.json: revision")


@pytest.mark.parametrize(
    "value",
    [
        "org/Other",
        None,
        7,
        "",
        "/root/models/tiny",
        "models--org--Other",
        "models--" + "--" * 400_000 + "/x",
        "org/Tiny/x",
        "org/Tiny-GPTQ",
    ],
)
def test_another_base_is_refused(value: object) -> None:
    error = refusal(config(base_model_name_or_path=value))
    assert error.reason == "ADAPTER_BASE_MISMATCH"
    assert "org/Tiny, twin/Tiny" in error.message


def test_a_rank_above_the_cap_is_refused() -> None:
    error = refusal(config(r=65))
    assert error.reason == "ADAPTER_RANK_ABOVE_CAP"
    assert error.metadata["value"] == "65"
    assert "64" in error.metadata["bound"]


def test_the_cap_holds_for_each_pattern() -> None:
    error = refusal(config(rank_pattern={"norm": 128}))
    assert error.reason == "ADAPTER_RANK_ABOVE_CAP"
    assert "rank_pattern['norm']" in error.message


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("modules_to_save", ["model"], "ADAPTER_UNSUPPORTED"),
        ("trainable_token_indices", {"norm": [1]}, "ADAPTER_UNSUPPORTED"),
        ("trainable_token_indices", {"lm_head": [1]}, "ADAPTER_UNSUPPORTED"),
        ("trainable_token_indices", [100], "ADAPTER_CONFIG_INVALID"),
        ("trainable_token_indices", [-1], "ADAPTER_CONFIG_INVALID"),
        ("trainable_token_indices", [10**30], "ADAPTER_CONFIG_INVALID"),
        ("trainable_token_indices", {"nowhere": [1]}, "ADAPTER_CONFIG_INVALID"),
        (
            "trainable_token_indices",
            {"embed_tokens": [1], "model.embed_tokens": [1]},
            "ADAPTER_CONFIG_INVALID",
        ),
    ],
)
def test_what_the_base_cannot_take_is_refused_by_name(key: str, value: object, reason: str) -> None:
    error = refusal(config(**{key: value}))
    assert (error.reason, error.field) == (reason, f"adapter_config.json: {key}")


def test_the_rules_of_peft_hold_here_too() -> None:
    assert refusal(config(whatever_comes_next=0.5)).field == "adapter_config.json: whatever_comes_next"


def test_a_name_to_save_stands_for_every_path_that_ends_with_it() -> None:
    assert parse_config(config(modules_to_save=["orm", "lm_head"]), BASE).saved == {"model.norm", "lm_head"}


def test_a_token_beyond_the_vocabulary_is_told_with_the_bound() -> None:
    error = refusal(config(trainable_token_indices=[5, 100]))
    assert error.metadata["value"] == "100"
    assert "0 to 99" in error.metadata["bound"]
