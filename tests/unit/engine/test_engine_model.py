"""What a model is asked before it serves, and which ones are refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from services.worker.engine.local.model import base_weights as model_module
from services.worker.engine.local.model.base_weights import load_base_model
from services.worker.engine.local.model.probe import probe_model
from services.worker.engine.local.model.unsupported_model import UnsupportedModelError
from services.worker.engine.local.torch_form.kv_cache import KvShape
from services.worker.engine.local.torch_form.torch_attention import paged_attention
from tests.support.engine import answer, running_engine
from tests.support.models import CONTEXT_LENGTH, LLAMA_MODULES, write_tiny_base


def test_the_probe_finds_what_each_layer_keeps_and_every_linear_module(tmp_path: Path) -> None:
    base = load_base_model(write_tiny_base(tmp_path), "cpu", "float32")
    probe = probe_model(base.model)
    assert probe.kv_shapes == {0: KvShape(2, 16, 16), 1: KvShape(2, 16, 16)}
    assert {path.rpartition(".")[2] for path in probe.linears} == {*LLAMA_MODULES, "lm_head"}
    assert len(probe.linears) == 2 * len(LLAMA_MODULES) + 1
    assert [path for path, linear in probe.linears.items() if linear.sampled_rows] == ["lm_head"]
    down = probe.linears["model.layers.1.mlp.down_proj"]
    assert (down.inputs, down.outputs) == (128, 64)


def test_a_base_knows_its_context_its_end_of_text_and_its_vocabulary(tmp_path: Path) -> None:
    base = load_base_model(write_tiny_base(tmp_path), "cpu", "float32")
    assert (base.context_length, base.vocabulary, base.stop_ids) == (CONTEXT_LENGTH, 384, frozenset({2}))
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "avx2": True}, torch.float32),
    ],
)
def test_auto_takes_bfloat16_where_the_cpu_computes_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert load_base_model(write_tiny_base(tmp_path), "cpu", "auto").dtype == expected


@pytest.mark.parametrize(
    ("stored", "kernels", "family", "expected"),
    [
        ("bfloat16", "auto", "llama", "bfloat16"),
        ("float32", "auto", "llama", "float32"),
        ("bfloat16", "off", "llama", "float32"),
        ("bfloat16", "auto", "gpt_neox", "float32"),
    ],
)
async def test_auto_keeps_a_bfloat16_checkpoint_where_the_kernels_widen_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    stored: str,
    kernels: str,
    family: str,
    expected: str,
) -> None:
    """On a CPU that cannot multiply it, as the one that says so here."""
    folder = write_tiny_base(tmp_path, family=family)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, stored))
    model.save_pretrained(folder)
    real = torch.cpu.get_capabilities()
    lacking = {name: has and "bf16" not in name for name, has in real.items()}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: lacking)
    async with running_engine(folder, dtype="auto", kernels=kernels) as engine:
        assert engine.capabilities.dtype == expected
        assert (await answer(engine, [5, 6, 7], max_tokens=3)).token_ids


def test_float32_can_be_asked_for_on_any_cpu(tmp_path: Path) -> None:
    assert load_base_model(write_tiny_base(tmp_path), "cpu", "float32").model.dtype == torch.float32


def test_longrope_serves_only_the_lengths_at_which_neighbours_do_not_matter() -> None:
    config = SimpleNamespace(
        max_position_embeddings=131072,
        rope_parameters={"rope_type": "longrope", "original_max_position_embeddings": 4096},
    )
    assert model_module._context_length(config) == 4096


def test_a_model_that_does_not_use_the_attention_interface_is_refused() -> None:
    config = AutoConfig.for_model("bloom", vocab_size=64, hidden_size=32, n_layer=2, n_head=2)
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    with torch.inference_mode(), pytest.raises(UnsupportedModelError, match="2 layers, of which 0"):
        probe_model(model)


def call_attention(*, module_options: dict[str, object] | None = None, **options: object) -> None:
    module = nn.Module()
    module.layer_idx = 0  # type: ignore[assignment]
    for name, value in (module_options or {}).items():
        setattr(module, name, value)
    states = torch.zeros(1, 2, 3, 4)
    mask = options.pop("attention_mask", None)
    assert mask is None or isinstance(mask, torch.Tensor)
    paged_attention(module, states, states, states, mask, paging=None, **options)  # type: ignore[arg-type]


def test_an_argument_that_attention_would_have_to_ignore_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="s_aux"):
        call_attention(s_aux=torch.zeros(2))
    with pytest.raises(UnsupportedModelError, match="attention_mask"):
        call_attention(attention_mask=torch.zeros(1, 1, 3, 3))
    with pytest.raises(UnsupportedModelError, match="is_causal"):
        call_attention(module_options={"is_causal": False})
    with pytest.raises(UnsupportedModelError, match="layer number"):
        call_attention(module_options={"layer_idx": None})
