"""A tensor that cannot be applied exactly is refused, by name."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from services.common.errors import InvalidFieldError
from services.worker.engine.local.adapters import builder
from services.worker.engine.local.model.probe import linear_bias, linear_weight
from tests.support.adapter_files import (
    DOWN,
    EMBEDDING,
    HEAD,
    LINEARS,
    NORM,
    TABLE,
    VOCABULARY,
    Q,
    loader,
    name,
    part,
    tensors,
    write,
)


def test_b_carries_the_scale_and_a_is_as_it_was(tmp_path: Path) -> None:
    weights = tensors()
    adapter = loader().load(write(tmp_path, weights, lora_alpha=3))
    assert set(adapter.weights.deltas) == {Q, DOWN}
    pair = adapter.weights.deltas[Q]
    assert pair.a is not None
    assert pair.b is not None
    assert torch.equal(pair.a, weights[name(Q, "A")])
    assert torch.equal(pair.b, weights[name(Q, "B")] * 1.5)
    assert adapter.nbytes == sum(weight.nbytes for weight in weights.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_come_in_the_engines_dtype_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = tensors(dtype=dtype)
    pair = loader(torch.bfloat16).load(write(tmp_path, weights, lora_alpha=3)).weights.deltas[Q]
    assert pair.b is not None
    assert torch.equal(pair.b, (weights[name(Q, "B")].float() * 1.5).to(torch.bfloat16))


def test_weights_outlive_their_file(tmp_path: Path) -> None:
    files = write(tmp_path)
    adapter = loader().load(files)
    kept = adapter.weights.deltas[Q].a
    assert kept is not None
    before = kept.clone()
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(kept, before)


def without_half(weights: dict[str, Tensor]) -> None:
    del weights[name(Q, "B")]


def with_stranger(weights: dict[str, Tensor]) -> None:
    weights[part(Q, "lora_C.weight")] = torch.ones(6)


def with_magnitude(weights: dict[str, Tensor]) -> None:
    weights[part(Q, "lora_magnitude_vector")] = torch.ones(6)


def with_bias(weights: dict[str, Tensor]) -> None:
    weights[part(Q, "base_layer.bias")] = torch.ones(6)


def with_bias_of_b(weights: dict[str, Tensor]) -> None:
    weights[part(Q, "lora_B.bias")] = torch.ones(6)


def with_rows(weights: dict[str, Tensor]) -> None:
    weights[part(EMBEDDING, "token_adapter.trainable_tokens_delta")] = torch.ones(1, 8)


def with_another_base(weights: dict[str, Tensor]) -> None:
    weights[part(Q, "base_layer.weight")] = torch.ones(6, 8)


def with_norm(weights: dict[str, Tensor]) -> None:
    weights[part(NORM, "weight")] = torch.ones(8)


def with_plain_weight(weights: dict[str, Tensor]) -> None:
    weights[part(HEAD, "weight")] = torch.ones(VOCABULARY, 8)


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
        (with_stranger, "module"),
        (with_magnitude, f"{Q}.lora_magnitude_vector"),
        (with_bias, f"{Q}.base_layer.bias"),
        (with_bias_of_b, f"{Q}.lora_B.bias"),
        (with_rows, f"{EMBEDDING}.token_adapter.trainable_tokens_delta"),
        (with_another_base, f"{Q}.base_layer.weight"),
        (with_norm, f"{NORM}.weight"),
        (with_plain_weight, f"{HEAD}.weight"),
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


def test_dora_scales_the_whole_weight_but_not_the_bases_bias(tmp_path: Path) -> None:
    weights = tensors()
    magnitudes = {path: torch.rand(LINEARS[path].outputs) + 0.5 for path in (Q, DOWN)}
    weights |= {part(path, "lora_magnitude_vector"): one for path, one in magnitudes.items()}
    delta = loader().load(write(tmp_path, weights, use_dora=True)).weights.deltas[Q]
    assert delta.multiplier is not None
    assert delta.bias is not None
    linear = LINEARS[Q].module.requires_grad_(False)
    whole = linear_weight(linear) + 2 * weights[name(Q, "B")] @ weights[name(Q, "A")]
    torch.testing.assert_close(delta.multiplier, magnitudes[Q] / whole.norm(dim=1))
    bias = linear_bias(linear)
    assert bias is not None
    torch.testing.assert_close(bias * delta.multiplier + delta.bias, bias)


@pytest.mark.parametrize("rows", [1, 3, 4096])
def test_norms_are_the_same_however_many_rows_are_taken_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(builder, "_ROWS_AT_ONCE", rows)
    a, b = torch.randn(2, VOCABULARY), torch.randn(8, 2)
    magnitudes = {Q: torch.rand(6) + 0.5, DOWN: torch.rand(8) + 0.5, EMBEDDING: torch.rand(8) + 0.5}
    weights = {**tensors(), part(EMBEDDING, "lora_embedding_A"): a, part(EMBEDDING, "lora_embedding_B"): b}
    weights |= {part(path, "lora_magnitude_vector"): one for path, one in magnitudes.items()}
    found = loader().load(write(tmp_path, weights, use_dora=True)).weights
    assert found.embedding is not None
    assert found.embedding.multiplier is not None
    assert found.deltas[Q].multiplier is not None
    whole = linear_weight(LINEARS[Q].module) + 2 * weights[name(Q, "B")] @ weights[name(Q, "A")]
    torch.testing.assert_close(found.deltas[Q].multiplier, (magnitudes[Q] / whole.norm(dim=1)).detach())
    norms = (TABLE + 2 * (b @ a).t()).norm(dim=0)
    torch.testing.assert_close(found.embedding.multiplier, magnitudes[EMBEDDING] / norms)


def test_a_copy_of_the_bases_own_weight_is_taken_and_not_kept(tmp_path: Path) -> None:
    weights = tensors()
    weights[part(Q, "base_layer.weight")] = linear_weight(LINEARS[Q].module).detach().clone()
    assert loader().load(write(tmp_path, weights)).nbytes == loader().load(write(tmp_path)).nbytes


@pytest.mark.parametrize("tied", [False, True])
def test_trained_rows_reach_the_output_layer_where_it_is_tied(tmp_path: Path, tied: bool) -> None:
    trained = torch.randn(3, 8)
    weights = {**tensors(), part(EMBEDDING, "token_adapter.trainable_tokens_delta"): trained}
    found = loader(tied=tied).load(write(tmp_path, weights, trainable_token_indices=[7, 2, 19])).weights
    assert found.embedding is not None
    tokens = torch.tensor([2, 3, 19, 0, 7])
    embedded = found.embedding.apply(tokens, TABLE[tokens])
    torch.testing.assert_close(
        embedded, torch.stack([trained[1], TABLE[3], trained[2], TABLE[0], trained[0]])
    )
    assert (found.output_rows is not None) == tied
    if found.output_rows is not None:
        hidden, logits = torch.randn(4, 8), torch.zeros(4, VOCABULARY)
        scored = found.output_rows.score(hidden, logits)
        torch.testing.assert_close(scored[:, [7, 2, 19]], hidden @ trained.t())
        assert scored.count_nonzero() == 12


@pytest.mark.parametrize("ids", [[20], [-1]])
def test_a_token_outside_the_vocabulary_is_refused(tmp_path: Path, ids: list[int]) -> None:
    weights = {**tensors(), part(EMBEDDING, "token_adapter.trainable_tokens_delta"): torch.ones(1, 8)}
    with pytest.raises(InvalidFieldError, match="from 0 to 19"):
        loader().load(write(tmp_path, weights, trainable_token_indices=ids))


def test_rows_of_a_projection_are_refused(tmp_path: Path) -> None:
    weights = {**tensors(), part(DOWN, "token_adapter.trainable_tokens_delta"): torch.ones(1, 12)}
    with pytest.raises(InvalidFieldError) as caught:
        loader().load(write(tmp_path, weights, trainable_token_indices={"down_proj": [1]}))
    assert "trainable_token_indices" in caught.value.field


def test_an_adapter_without_lora_weights_is_refused(tmp_path: Path) -> None:
    weights = {part(HEAD, "weight"): torch.ones(VOCABULARY, 8)}
    with pytest.raises(InvalidFieldError, match="LoRA weights of at least one module"):
        loader().load(write(tmp_path, weights, modules_to_save=["lm_head"]))


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
