"""Where file, config and base do not say the same: PEFT's result, or a refusal that names what differs."""

from typing import Any

import pytest

from services.common.errors import InvalidFieldError
from tests.unit.registry.test_registry_adapter_variants import (
    BASE,
    EMBED,
    EMBED_PAIR,
    HEAD,
    HEAD_PAIR,
    Q_PAIR,
    TIED,
    Q,
    Tensors,
    check,
)

GROWN: list[tuple[Tensors, dict[str, Any]]] = [
    (
        {**Q_PAIR, f"{EMBED}.weight": [101, 8], f"{HEAD}.weight": [100, 8]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
    ),
    (
        {**Q_PAIR, f"{EMBED}.weight": [100, 8], f"{HEAD}.weight": [101, 8]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
    ),
    ({**Q_PAIR, f"{EMBED}.weight": [101, 8]}, {}),
    ({**HEAD_PAIR, f"{HEAD}.lora_B.weight": [101, 4]}, {}),
    ({**EMBED_PAIR, f"{EMBED}.lora_embedding_A": [4, 101]}, {}),
    ({**EMBED_PAIR, f"{EMBED}.base_layer.weight": [101, 8]}, {}),
]


@pytest.mark.parametrize(("tensors", "config"), GROWN)
def test_a_vocabulary_that_grew_in_training_has_a_reason_of_its_own(
    tensors: Tensors, config: dict[str, Any]
) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        check(tensors, **config)
    assert caught.value.reason == "ADAPTER_VOCABULARY_CHANGED"
    assert "for 101 tokens" in caught.value.message
    assert "tokens were added" in caught.value.message


@pytest.mark.parametrize("part", ["weight", "base_layer.weight"])
def test_the_bases_own_embedding_and_output_layer_may_stand_beside_an_adapter(part: str) -> None:
    copies = {f"{path}.weight": [100, 8] for path in (EMBED, HEAD)}
    assert check({**Q_PAIR, **copies}).target_modules == ("q_proj",)
    assert check({**HEAD_PAIR, f"{HEAD}.{part}": [100, 8]}).target_modules == ("lm_head",)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"target_modules": ["down_proj"]}, "target_modules"),
        ({"target_modules": "all-linear", "exclude_modules": ["q_proj"]}, "exclude_modules"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, "layers_to_transform"),
        ({"target_modules": None}, "target_modules"),
        ({"target_modules": []}, "target_modules"),
        ({"target_modules": r"model\.layers\.1\..*"}, "target_modules"),
    ],
)
def test_weights_that_the_config_has_no_place_for_are_refused_by_its_key(
    config: dict[str, Any], key: str
) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        check(Q_PAIR, **config)
    assert caught.value.field == f"adapter_config.json: {key}"
    assert Q in caught.value.message


def test_a_target_without_weights_stays_as_it_was_unless_peft_begins_with_chance() -> None:
    targets: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"]}
    assert check(Q_PAIR, **targets).target_modules == ("q_proj",)
    assert check(Q_PAIR, **targets, init_lora_weights="gaussian").rank == 4
    with pytest.raises(InvalidFieldError) as caught:
        check(Q_PAIR, **targets, init_lora_weights=False)
    assert "down_proj.lora_A.weight" in caught.value.field
    assert "init_lora_weights" in caught.value.message


def test_tying_is_nothing_where_nothing_tied_is_trained() -> None:
    assert check(Q_PAIR, TIED, ensure_weight_tying=True).rank == 4
    assert check({**Q_PAIR, **EMBED_PAIR}, BASE, ensure_weight_tying=True).rank == 4
    for tensors in (EMBED_PAIR, HEAD_PAIR):
        with pytest.raises(InvalidFieldError) as caught:
            check({**Q_PAIR, **tensors}, TIED, ensure_weight_tying=True)
        assert caught.value.field == "adapter_config.json: ensure_weight_tying"
