"""Config and header together, for every variant of LoRA: which tensors must be there, and which must not."""

import json
import struct
from dataclasses import replace
from typing import Any

import pytest

from services.common.errors import InvalidFieldError
from services.registry.admission.base_rules import parse_config
from services.registry.admission.header_check import AdapterModules, check_header
from services.registry.bases.base_model import BaseModel, BaseModule, ModuleKind, Price, Tokenizer
from tests.support.registry import safetensors

Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"
NORM, OTHER_NORM = "model.layers.0.input_layernorm", "model.norm"
EMBED, HEAD, POSITIONS = "model.embed_tokens", "lm_head", "model.wpe"
BASE = BaseModel(
    name="tiny",
    hub_ids=("org/Tiny",),
    local_path="/base",
    hub_repo="",
    commit="c",
    context_length=512,
    max_lora_rank=64,
    target_modules=("q_proj", "down_proj", "embed_tokens", "lm_head"),
    price=Price(2, 2, 2),
    modules={
        EMBED: BaseModule(ModuleKind.EMBEDDING, (100, 8)),
        POSITIONS: BaseModule(ModuleKind.OTHER, (64, 8)),
        Q: BaseModule(ModuleKind.LINEAR, (16, 8), 16),
        DOWN: BaseModule(ModuleKind.LINEAR, (8, 32)),
        NORM: BaseModule(ModuleKind.NORM, (8,), 8),
        OTHER_NORM: BaseModule(ModuleKind.NORM, (8,)),
        HEAD: BaseModule(ModuleKind.OUTPUT, (100, 8)),
    },
    tokenizer=Tokenizer(b"", "", {}),
)
TIED = replace(BASE, modules={**BASE.modules, HEAD: BaseModule(ModuleKind.OUTPUT, (100, 8), tied=True)})

Tensors = dict[str, list[int]]
Q_PAIR: Tensors = {f"{Q}.lora_A.weight": [4, 8], f"{Q}.lora_B.weight": [16, 4]}
DOWN_PAIR: Tensors = {f"{DOWN}.lora_A.weight": [4, 32], f"{DOWN}.lora_B.weight": [8, 4]}
HEAD_PAIR: Tensors = {f"{HEAD}.lora_A.weight": [4, 8], f"{HEAD}.lora_B.weight": [100, 4]}
EMBED_PAIR: Tensors = {f"{EMBED}.lora_embedding_A": [4, 100], f"{EMBED}.lora_embedding_B": [8, 4]}
EMBED_ROWS, HEAD_ROWS = (f"{path}.token_adapter.trainable_tokens_delta" for path in (EMBED, HEAD))


def check(tensors: Tensors, base: BaseModel = BASE, **config: Any) -> AdapterModules:
    data = safetensors({f"base_model.model.{name}": ("F32", tuple(shape)) for name, shape in tensors.items()})
    end = 8 + int(struct.unpack("<Q", data[:8])[0])
    document = {
        "peft_type": "LORA",
        "base_model_name_or_path": "org/Tiny",
        "r": 4,
        "target_modules": ["q_proj", "down_proj", "embed_tokens", "lm_head"],
        **config,
    }
    parsed = parse_config(json.dumps(document).encode(), base)
    return check_header(data[8:end], file_size=len(data), fitted=parsed, base=base)


ACCEPTED: dict[str, tuple[Tensors, dict[str, Any]]] = {
    "dora": (
        {
            **Q_PAIR, f"{Q}.lora_magnitude_vector": [16],
            **HEAD_PAIR, f"{HEAD}.lora_magnitude_vector": [100],
            **EMBED_PAIR, f"{EMBED}.lora_magnitude_vector": [8],
        },
        {"use_dora": True},
    ),
    "lora_bias": (
        {**Q_PAIR, f"{Q}.lora_B.bias": [16], **HEAD_PAIR, f"{HEAD}.lora_B.bias": [100]},
        {"lora_bias": True},
    ),
    "bias none": (Q_PAIR, {"bias": "none"}),
    "bias lora_only": ({**Q_PAIR, **DOWN_PAIR, f"{Q}.base_layer.bias": [16]}, {"bias": "lora_only"}),
    "bias lora_only where no adapted module has one": (DOWN_PAIR, {"bias": "lora_only"}),
    "bias all": ({**Q_PAIR, f"{Q}.base_layer.bias": [16], f"{NORM}.bias": [8]}, {"bias": "all"}),
    "bias all of modules without LoRA": (
        {**DOWN_PAIR, f"{Q}.bias": [16], f"{NORM}.bias": [8]},
        {"bias": "all"},
    ),
    "embedding": (EMBED_PAIR, {}),
    "embedding with its copy": ({**EMBED_PAIR, f"{EMBED}.base_layer.weight": [100, 8]}, {}),
    "embedding of another rank": (
        {f"{EMBED}.lora_embedding_A": [2, 100], f"{EMBED}.lora_embedding_B": [8, 2]},
        {"rank_pattern": {"embed_tokens": 2}},
    ),
    "output layer with its copy": ({**HEAD_PAIR, f"{HEAD}.base_layer.weight": [100, 8]}, {}),
    "norms saved": (
        {**Q_PAIR, f"{NORM}.weight": [8], f"{NORM}.bias": [8], f"{OTHER_NORM}.weight": [8]},
        {"modules_to_save": ["norm"]},
    ),
    "embedding and output layer saved": (
        {**Q_PAIR, f"{EMBED}.weight": [100, 8], f"{HEAD}.weight": [100, 8]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
    ),
    "saved by a name that the base lacks": (Q_PAIR, {"modules_to_save": ["classifier"]}),
    "tokens of the embedding": ({**Q_PAIR, EMBED_ROWS: [3, 8]}, {"trainable_token_indices": [99, 0, 7]}),
    "tokens by name": ({**Q_PAIR, EMBED_ROWS: [1, 8]}, {"trainable_token_indices": {"embed_tokens": [1]}}),
    "tokens of both": (
        {**Q_PAIR, EMBED_ROWS: [2, 8], HEAD_ROWS: [2, 8]},
        {"trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [1, 2]}},
    ),
    "tokens of neither": (Q_PAIR, {"trainable_token_indices": {"embed_tokens": []}}),
    "fan_in_fan_out": (Q_PAIR, {"fan_in_fan_out": True}),
}  # fmt: skip


@pytest.mark.parametrize("variant", ACCEPTED)
def test_a_supported_variant_passes(variant: str) -> None:
    tensors, config = ACCEPTED[variant]
    assert check(tensors, **config).rank in (2, 4)


@pytest.mark.parametrize("variant", ACCEPTED)
def test_none_of_its_tensors_may_be_missing_but_a_copy_of_the_base(variant: str) -> None:
    tensors, config = ACCEPTED[variant]
    for name in tensors:
        rest = {other: shape for other, shape in tensors.items() if other != name}
        if name.endswith("base_layer.weight"):
            check(rest, **config)
            continue
        with pytest.raises(InvalidFieldError) as caught:
            check(rest, **config)
        assert caught.value.reason == "ADAPTER_TENSORS_INVALID"
        assert name in caught.value.message


@pytest.mark.parametrize("variant", ACCEPTED)
def test_each_of_its_tensors_must_have_its_shape(variant: str) -> None:
    tensors, config = ACCEPTED[variant]
    for name, shape in tensors.items():
        for wrong in ([shape[0] + 1, *shape[1:]], [*shape, 1]):
            with pytest.raises(InvalidFieldError) as caught:
                check({**tensors, name: wrong}, **config)
            if caught.value.reason == "ADAPTER_VOCABULARY_CHANGED":
                assert f"for {shape[0] + 1} tokens" in caught.value.message
                continue
            assert caught.value.reason == "ADAPTER_TENSORS_INVALID"
            assert caught.value.field.endswith(f"shape of {name}")
            assert str(shape) in caught.value.message


@pytest.mark.parametrize(
    ("stranger", "shape", "told"),
    [
        (f"{Q}.lora_magnitude_vector", [16], "use_dora"),
        (f"{Q}.lora_B.bias", [16], "lora_bias"),
        (f"{Q}.base_layer.bias", [16], "bias 'all' or 'lora_only'"),
        (f"{Q}.bias", [16], "bias 'all'"),
        (f"{NORM}.bias", [8], "modules_to_save"),
        (f"{NORM}.weight", [8], "modules_to_save"),
        (f"{Q}.base_layer.weight", [16, 8], "the input embedding or the output layer"),
        (f"{EMBED}.base_layer.weight", [100, 8], "LoRA on the input embedding"),
        (f"{EMBED}.lora_A.weight", [4, 8], "LoRA on a linear module or the output layer"),
        (f"{POSITIONS}.lora_embedding_A", [4, 64], "LoRA on the input embedding"),
        (f"{NORM}.lora_A.weight", [4, 8], "LoRA on a linear module"),
        (EMBED_ROWS, [1, 8], "trainable_token_indices"),
    ],
)
def test_a_tensor_that_its_config_does_not_ask_for_is_refused(
    stranger: str, shape: list[int], told: str
) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        check({**Q_PAIR, stranger: shape})
    assert caught.value.reason == "ADAPTER_TENSORS_INVALID"
    assert repr(f"base_model.model.{stranger}") in caught.value.message
    assert told in caught.value.message


@pytest.mark.parametrize("config", [{"bias": "all"}, {"bias": "lora_only"}])
def test_a_bias_that_the_base_lacks_is_refused(config: dict[str, Any]) -> None:
    tensors = {**DOWN_PAIR, f"{DOWN}.base_layer.bias": [8]}
    with pytest.raises(InvalidFieldError, match="a bias of the base"):
        check(tensors, **config)


REFUSED: dict[str, tuple[Tensors, dict[str, Any], str, str]] = {
    "lora_bias on an embedding": ({**EMBED_PAIR}, {"lora_bias": True}, "lora_bias", EMBED),
    "LoRA on a saved module": (
        {**HEAD_PAIR, f"{HEAD}.weight": [100, 8]},
        {"modules_to_save": ["lm_head"]},
        "modules_to_save",
        HEAD,
    ),
    "LoRA on a module with tokens": (
        {**EMBED_PAIR, EMBED_ROWS: [1, 8]},
        {"trainable_token_indices": [1]},
        "trainable_token_indices",
        EMBED,
    ),
    "tokens of a saved module": (
        {**Q_PAIR, f"{EMBED}.weight": [100, 8]},
        {"trainable_token_indices": [1], "modules_to_save": ["embed_tokens"]},
        "trainable_token_indices",
        EMBED,
    ),
    "tokens of a projection": (Q_PAIR, {"trainable_token_indices": {"q_proj": [1]}}, "trainable_token_indices", Q),
    "a saved projection": ({**Q_PAIR}, {"modules_to_save": ["down_proj"]}, "modules_to_save", DOWN),
    "a bias both saved and trained as a bias": (
        {**DOWN_PAIR, f"{NORM}.weight": [8], f"{NORM}.bias": [8], f"{Q}.bias": [16]},
        {"modules_to_save": ["input_layernorm"], "bias": "all"},
        "modules_to_save",
        NORM,
    ),
    "a saved block": (Q_PAIR, {"modules_to_save": ["mlp"]}, "modules_to_save", "model.layers.0.mlp"),
    "saved positions": (Q_PAIR, {"modules_to_save": ["wpe"]}, "modules_to_save", POSITIONS),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_engine_does_not_apply_is_refused_by_name_and_module(case: str) -> None:
    tensors, config, field, told = REFUSED[case]
    with pytest.raises(InvalidFieldError) as caught:
        check(tensors, **config)
    assert caught.value.reason == "ADAPTER_UNSUPPORTED"
    assert caught.value.field == f"adapter_config.json: {field}"
    assert told in caught.value.message


class TestATiedOutputLayer:
    def test_takes_lora_of_its_own(self) -> None:
        assert check(HEAD_PAIR, TIED).target_modules == ("lm_head",)

    def test_can_be_saved(self) -> None:
        check({**Q_PAIR, f"{HEAD}.weight": [100, 8]}, TIED, modules_to_save=["lm_head"])

    def test_shares_the_embeddings_tokens(self) -> None:
        tensors = {**Q_PAIR, EMBED_ROWS: [2, 8]}
        for indices in ([1, 2], {"embed_tokens": [1, 2]}, {"embed_tokens": [1, 2], "lm_head": [1, 2]}):
            check(tensors, TIED, trainable_token_indices=indices)

    def test_has_tokens_of_its_own_where_they_differ(self) -> None:
        indices = {"embed_tokens": [1, 2], "lm_head": [3]}
        check({**Q_PAIR, EMBED_ROWS: [2, 8], HEAD_ROWS: [1, 8]}, TIED, trainable_token_indices=indices)

    def test_takes_no_lora_where_it_shares_tokens(self) -> None:
        with pytest.raises(InvalidFieldError) as caught:
            check({**HEAD_PAIR, EMBED_ROWS: [1, 8]}, TIED, trainable_token_indices=[1])
        assert caught.value.field == "adapter_config.json: trainable_token_indices"

    def test_is_not_saved_where_it_shares_tokens(self) -> None:
        with pytest.raises(InvalidFieldError, match="lm_head"):
            check(Q_PAIR, TIED, trainable_token_indices=[1], modules_to_save=["lm_head"])


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        ({**Q_PAIR, **HEAD_PAIR}, {}),
        ({**Q_PAIR, f"{HEAD}.weight": [100, 8]}, {"modules_to_save": ["lm_head"]}),
        ({**Q_PAIR, HEAD_ROWS: [1, 8]}, {"trainable_token_indices": {"lm_head": [1]}}),
    ],
)
def test_the_output_layer_needs_permission_however_it_is_trained(
    tensors: Tensors, config: dict[str, Any]
) -> None:
    with pytest.raises(InvalidFieldError, match="which this base lets be adapted"):
        check(tensors, replace(BASE, target_modules=("q_proj",)), **config)


def test_norms_and_biases_need_none() -> None:
    tensors = {**DOWN_PAIR, f"{Q}.bias": [16], f"{NORM}.bias": [8], f"{OTHER_NORM}.weight": [8]}
    base = replace(BASE, target_modules=("down_proj",))
    found = check(tensors, base, bias="all", modules_to_save=["model.norm"])
    assert found == AdapterModules(rank=4, target_modules=("down_proj", "norm"))


def test_saved_modules_alone_are_no_lora_adapter() -> None:
    with pytest.raises(InvalidFieldError, match="LoRA weights of at least one module"):
        check({f"{HEAD}.weight": [100, 8]}, modules_to_save=["lm_head"])
