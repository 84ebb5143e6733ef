"""What cannot be applied exactly is refused, by name."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from services.common.errors import InvalidFieldError
from services.worker.engine.adapter_config import read_config
from services.worker.engine.adapter_files import AdapterLoader
from services.worker.engine.interface import AdapterFiles
from services.worker.engine.probe import LinearModule

Q = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.11.mlp.down_proj"
LINEARS = {
    Q: LinearModule(nn.Linear(8, 6), 8, 6, sampled_rows=False),
    DOWN: LinearModule(nn.Linear(12, 8), 12, 8, sampled_rows=False),
}


def name(path: str, half: str) -> str:
    return f"base_model.model.{path}.lora_{half}.weight"


def tensors(rank: int = 2, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name(path, half): torch.randn(*shape, generator=generator).to(dtype)
        for path, linear in LINEARS.items()
        for half, shape in (("A", (rank, linear.inputs)), ("B", (linear.outputs, rank)))
    }


def write(folder: Path, weights: dict[str, Tensor] | None = None, **config: Any) -> AdapterFiles:
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config})
    )
    save_file(tensors() if weights is None else weights, folder / "adapter_model.safetensors")
    return AdapterFiles("digest", folder)


def loader(dtype: torch.dtype = torch.float32) -> AdapterLoader:
    return AdapterLoader(LINEARS, dtype, torch.device("cpu"))


def test_b_carries_the_scale_and_a_is_as_it_was(tmp_path: Path) -> None:
    weights = tensors()
    adapter = loader().load(write(tmp_path, weights, lora_alpha=3))
    assert set(adapter.pairs) == {Q, DOWN}
    assert torch.equal(adapter.pairs[Q].a, weights[name(Q, "A")])
    assert torch.equal(adapter.pairs[Q].b, weights[name(Q, "B")] * 1.5)
    assert adapter.nbytes == sum(weight.nbytes for weight in weights.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_come_in_the_engines_dtype_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = tensors(dtype=dtype)
    pair = loader(torch.bfloat16).load(write(tmp_path, weights, lora_alpha=3)).pairs[Q]
    assert torch.equal(pair.b, (weights[name(Q, "B")].float() * 1.5).to(torch.bfloat16))


def test_weights_outlive_their_file(tmp_path: Path) -> None:
    files = write(tmp_path)
    adapter = loader().load(files)
    before = adapter.pairs[Q].a.clone()
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(adapter.pairs[Q].a, before)


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
        ("use_dora", True),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("trainable_token_indices", [3]),
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


def without_half(weights: dict[str, Tensor]) -> None:
    del weights[name(Q, "B")]


def with_stranger(weights: dict[str, Tensor]) -> None:
    weights[f"base_model.model.{Q}.lora_magnitude_vector"] = torch.ones(6)


def with_plain_weight(weights: dict[str, Tensor]) -> None:
    weights["base_model.model.lm_head.weight"] = torch.ones(6, 6)


def with_unknown_module(weights: dict[str, Tensor]) -> None:
    for half in ("A", "B"):
        weights[name("model.layers.99.self_attn.q_proj", half)] = weights[name(Q, half)].clone()


def with_wrong_rank(weights: dict[str, Tensor]) -> None:
    weights[name(Q, "A")] = torch.ones(3, 8)


def with_wrong_width(weights: dict[str, Tensor]) -> None:
    weights[name(Q, "B")] = torch.ones(7, 2)


def with_nan(weights: dict[str, Tensor]) -> None:
    weights[name(DOWN, "A")][1, 3] = math.nan


def with_infinity(weights: dict[str, Tensor]) -> None:
    weights[name(DOWN, "B")][1, 1] = math.inf


def with_overflow(weights: dict[str, Tensor]) -> None:
    weights[name(DOWN, "B")][1, 1] = 3e38  # twice that, its scale, is past float32


def with_integers(weights: dict[str, Tensor]) -> None:
    weights[name(Q, "A")] = torch.ones(2, 8, dtype=torch.int32)


def with_nothing(weights: dict[str, Tensor]) -> None:
    weights.clear()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (without_half, f"{Q}.lora_B.weight"),
        (with_stranger, "tensor name"),
        (with_plain_weight, "tensor name"),
        (with_unknown_module, "module"),
        (with_wrong_rank, f"shape of {Q}.lora_A.weight"),
        (with_wrong_width, f"shape of {Q}.lora_B.weight"),
        (with_nan, f"{DOWN}.lora_A.weight"),
        (with_infinity, f"{DOWN}.lora_B.weight"),
        (with_overflow, f"{DOWN}.lora_B.weight"),
        (with_integers, f"dtype of {name(Q, 'A')}"),
        (with_nothing, "adapter_model.safetensors"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, damage: Callable[[dict[str, Tensor]], None], named: str
) -> None:
    weights = tensors()
    damage(weights)
    with pytest.raises(InvalidFieldError) as caught:
        loader().load(write(tmp_path, weights))
    assert named in caught.value.field


def test_a_file_that_is_cut_short_or_missing_is_refused(tmp_path: Path) -> None:
    files = write(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    whole = load_file(path)
    assert len(whole) == 4
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InvalidFieldError, match="whole safetensors file"):
        loader().load(files)
    path.unlink()
    with pytest.raises(InvalidFieldError, match="whole safetensors file"):
        loader().load(files)
