"""Whether an adapter's tensors fit the base."""

import json
from dataclasses import replace
from typing import Any

import pytest

from services.common.errors import InvalidFieldError
from services.registry.admission.base_rules import parse_config
from services.registry.admission.header_check import AdapterModules, check_header
from services.registry.bases.base_model import BaseModel, BaseModule, ModuleKind, Price, Tokenizer

Q = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.0.mlp.down_proj"
BASE = BaseModel(
    name="tiny",
    hub_ids=("org/Tiny",),
    local_path="/base",
    hub_repo="",
    commit="c",
    context_length=512,
    max_lora_rank=64,
    target_modules=("q_proj", "down_proj"),
    price=Price(2, 2, 2),
    modules={
        Q: BaseModule(ModuleKind.LINEAR, (16, 8)),
        DOWN: BaseModule(ModuleKind.LINEAR, (8, 32)),
        "lm_head": BaseModule(ModuleKind.OUTPUT, (100, 8)),
    },
    tokenizer=Tokenizer(b"", "", {}),
)
FITTED = parse_config(
    json.dumps(
        {
            "peft_type": "LORA",
            "base_model_name_or_path": "org/Tiny",
            "r": 4,
            "target_modules": ["q_proj", "down_proj", "lm_head"],
            "rank_pattern": {"down_proj": 2},
        }
    ).encode(),
    BASE,
)
Header = dict[str, dict[str, Any]]


def name(path: str, half: str) -> str:
    return f"base_model.model.{path}.lora_{half}.weight"


def whole() -> Header:
    """A header that passes: q_proj at rank 4, down_proj at rank 2."""
    shapes = {
        name(Q, "A"): [4, 8],
        name(Q, "B"): [16, 4],
        name(DOWN, "A"): [2, 32],
        name(DOWN, "B"): [8, 2],
    }
    return lay_out({key: {"dtype": "F32", "shape": shape} for key, shape in shapes.items()})


def lay_out(header: Header) -> Header:
    """Give every tensor the bytes behind the one before it."""
    position = 0
    for entry in header.values():
        size = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "F64": 8}[entry["dtype"]]
        for dimension in entry["shape"]:
            size *= dimension
        entry["data_offsets"] = [position, position + size]
        position += size
    return header


def check(header: Header, *, extra_bytes: int = 0, base: BaseModel = BASE) -> AdapterModules:
    data = json.dumps(header).encode()
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    return check_header(data, file_size=8 + len(data) + end + extra_bytes, fitted=FITTED, base=base)


def refusal(header: Header, **options: Any) -> str:
    with pytest.raises(InvalidFieldError) as caught:
        check(header, **options)
    assert caught.value.reason == "ADAPTER_TENSORS_INVALID"
    return caught.value.message


def test_a_whole_adapter_tells_its_modules_and_its_largest_rank() -> None:
    assert check(whole()) == AdapterModules(rank=4, target_modules=("down_proj", "q_proj"))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_the_dtypes_of_training_pass(dtype: str) -> None:
    header = whole()
    for entry in header.values():
        entry["dtype"] = dtype
    assert check(lay_out(header)).rank == 4


def test_metadata_is_no_tensor() -> None:
    data = json.dumps({"__metadata__": {"format": "pt"}, **whole()}).encode()
    end = whole()[name(DOWN, "B")]["data_offsets"][1]
    assert check_header(data, file_size=8 + len(data) + end, fitted=FITTED, base=BASE).rank == 4


@pytest.mark.parametrize("dtype", ["F64", "I8"])
def test_other_dtypes_are_refused(dtype: str) -> None:
    header = whole()
    header[name(Q, "A")]["dtype"] = dtype
    assert dtype in refusal(lay_out(header))


@pytest.mark.parametrize("half", ["A", "B"])
def test_half_a_pair_is_refused(half: str) -> None:
    header = whole()
    del header[name(Q, half)]
    message = refusal(lay_out(header))
    assert f"{Q}.lora_{half}.weight" in message


@pytest.mark.parametrize(
    "stranger",
    [
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.alpha",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight ",
        "",
    ],
)
def test_a_tensor_that_nothing_would_use_is_refused_by_name(stranger: str) -> None:
    header = {**whole(), stranger: {"dtype": "F32", "shape": [4, 8]}}
    assert repr(stranger) in refusal(lay_out(header))


def test_a_module_that_the_base_lacks_is_refused() -> None:
    path = "model.layers.9.self_attn.q_proj"
    header = {name(path, half): {"dtype": "F32", "shape": [4, 4]} for half in "AB"}
    assert path in refusal(lay_out(header))


def test_a_module_that_may_not_be_adapted_is_refused() -> None:
    header = {
        name("lm_head", "A"): {"dtype": "F32", "shape": [4, 8]},
        name("lm_head", "B"): {"dtype": "F32", "shape": [100, 4]},
    }
    assert "q_proj, down_proj" in refusal(lay_out(header))
    allowing = replace(BASE, target_modules=("lm_head",))
    assert check(lay_out(header), base=allowing).target_modules == ("lm_head",)


@pytest.mark.parametrize(
    ("path", "half", "shape", "expected"),
    [
        (Q, "A", [4, 9], "[4, 8]"),
        (Q, "A", [8, 4], "[4, 8]"),
        (Q, "A", [5, 8], "[4, 8]"),
        (Q, "A", [4, 8, 1], "[4, 8]"),
        (Q, "B", [15, 4], "[16, 4]"),
        (Q, "B", [0, 4], "[16, 4]"),
        (DOWN, "A", [4, 32], "[2, 32]"),
    ],
)
def test_a_shape_must_fit_the_base_and_the_rank_of_the_config(
    path: str, half: str, shape: list[int], expected: str
) -> None:
    header = whole()
    header[name(path, half)]["shape"] = shape
    assert expected in refusal(lay_out(header))


def test_no_tensors_at_all_is_refused() -> None:
    assert "at least one module" in refusal({})


def test_a_gap_an_overlap_or_another_beginning_is_refused() -> None:
    for shift in (4, -4):
        header = whole()
        for key in list(header)[1:]:
            begin, end = header[key]["data_offsets"]
            header[key]["data_offsets"] = [begin + shift, end + shift]
        assert "must begin at" in refusal(header)
    for key in (header := whole()):
        header[key]["data_offsets"] = [one + 8 for one in header[key]["data_offsets"]]
    assert "must begin at 0" in refusal(header)


@pytest.mark.parametrize("extra_bytes", [-1, 1])
def test_sizes_must_add_up_to_the_file(extra_bytes: int) -> None:
    assert "add up to" in refusal(whole(), extra_bytes=extra_bytes)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 64]},
        {"dtype": "F32", "shape": [4, True], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4, 8.0], "data_offsets": [0, 128]},
        {"dtype": "F32", "shape": [-4, -8], "data_offsets": [0, 128]},
        {"dtype": "F32", "shape": "4x8", "data_offsets": [0, 128]},
        {"dtype": "F32", "shape": [1] * 1000, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [4, 8], "data_offsets": [128, 0]},
        {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 64, 128]},
        {"dtype": "Q4", "shape": [4, 8], "data_offsets": [0, 128]},
        {"dtype": 32, "shape": [4, 8], "data_offsets": [0, 128]},
        {"dtype": "F32", "shape": [4, 8]},
        {"dtype": "F32", "shape": [4, 8], "data_offsets": [0, 128], "more": 1},
        [4, 8],
    ],
)
def test_a_malformed_entry_is_refused(entry: Any) -> None:
    data = json.dumps({name(Q, "A"): entry}).encode()
    with pytest.raises(InvalidFieldError) as caught:
        check_header(data, file_size=8 + len(data) + 128, fitted=FITTED, base=BASE)
    assert "q_proj" in caught.value.message


def test_a_name_that_appears_twice_is_refused() -> None:
    data = json.dumps(whole()).encode()
    doubled = data[:-1] + b", " + data[1:]
    with pytest.raises(InvalidFieldError, match="twice"):
        check_header(doubled, file_size=10**6, fitted=FITTED, base=BASE)
