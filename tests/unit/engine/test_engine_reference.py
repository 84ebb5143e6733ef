"""Before it serves, the native runner is held against transformers' own forward."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.llama import modeling_llama

from services.worker.engine.local.model.base_weights import load_base_model
from services.worker.engine.local.model.probe import probe_model
from services.worker.engine.local.model.reference import Reference
from services.worker.engine.local.native.kernels.layers import DecoderLayers
from services.worker.engine.local.runner import make_runner
from tests.support.engine import answer, answers, running_engine
from tests.support.models import write_tiny_base
from tests.support.paths import BASE

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3")
PROMPT = [5, 300, 17, 80, 42, 9]


def distance(folder: Path, dtype: Any) -> tuple[float, float]:
    """Of the native runner, and what it may be."""
    base = load_base_model(folder, "cpu", dtype)
    probe, reference = probe_model(base.model), Reference.of(base.model, base.vocabulary)
    runner = make_runner(base, probe, blocks=4, block_size=16, use_kernels=True, threads=1)
    assert runner.mode.startswith("native")
    return reference.distance(runner.run, block_size=16), reference.most


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_agrees_with_room_to_spare(tmp_path: Path, family: str, dtype: str) -> None:
    found, most = distance(write_tiny_base(tmp_path, family=family), dtype)
    assert found <= most / 1.5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_real_base_agrees(dtype: str) -> None:
    found, most = distance(BASE, dtype)
    assert found <= most / 2


def test_the_model_is_as_it_was_afterwards(tmp_path: Path) -> None:
    base = load_base_model(write_tiny_base(tmp_path), "cpu", "float32")
    ours = base.model.config._attn_implementation
    Reference.of(base.model, base.vocabulary)
    assert base.model.config._attn_implementation == ours
    probe_model(base.model)  # which fails unless the attention is ours


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_where_transformers_computes_otherwise_torch_serves_what_it_computes(
    tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_tiny_base(tmp_path)
    async with running_engine(base, dtype=dtype) as engine:
        assert engine.capabilities.mode.startswith("native/")
    assert "native_runner_differs" not in capsys.readouterr().out
    own: Any = modeling_llama.LlamaMLP.forward

    def doubled(self: Any, x: torch.Tensor) -> torch.Tensor:
        """An option that came with a release, and that our kernels do not know of."""
        output: torch.Tensor = own(self, x)
        return 2 * output

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", doubled)
    async with running_engine(base, dtype=dtype) as engine:
        assert engine.capabilities.mode == f"torch/{dtype}"
        assert engine.capabilities.dtype == dtype
        found = await answer(engine, PROMPT, max_tokens=8)
    said = capsys.readouterr().out
    assert "native_runner_differs" in said
    if dtype == "float32":
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        with torch.inference_mode():
            expected = model.generate(
                torch.tensor([PROMPT]), max_new_tokens=8, do_sample=False, eos_token_id=None
            )
        assert found.token_ids == expected[0, len(PROMPT) :].tolist()


async def test_where_twice_the_weights_do_not_fit_torch_takes_no_wider_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_tiny_base(tmp_path / "base")
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    weight_bytes = sum(weight.nbytes for weight in model.parameters())
    model.save_pretrained(base)
    run = DecoderLayers.__call__

    def negated(self: Any, *args: Any, **options: Any) -> torch.Tensor:
        return -run(self, *args, **options)

    monkeypatch.setattr(DecoderLayers, "__call__", negated)
    monkeypatch.setattr(
        "services.worker.engine.local.engine_parts.free_bytes", lambda _: 2 * weight_bytes - 1
    )
    async with running_engine(base, dtype="auto", adapter_bytes=10_000) as engine:
        assert engine.capabilities.mode == "torch/bfloat16"


async def test_a_runner_that_fails_serves_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_self: Any, *_args: Any, **_options: Any) -> torch.Tensor:
        raise ValueError("a shape that no kernel takes")

    monkeypatch.setattr(DecoderLayers, "__call__", fails)
    async with running_engine(write_tiny_base(tmp_path)) as engine:
        assert engine.capabilities.mode == "torch/float32"
        await answer(engine, PROMPT, max_tokens=2)


async def test_a_runner_that_gives_nan_serves_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_tiny_base(tmp_path)
    run = DecoderLayers.__call__

    def broken(self: Any, *args: Any, **options: Any) -> torch.Tensor:
        return run(self, *args, **options) * float("nan")

    monkeypatch.setattr(DecoderLayers, "__call__", broken)
    async with running_engine(base) as engine:
        assert engine.capabilities.mode == "torch/float32"
        assert len(await answers(engine, [PROMPT, PROMPT[:2]], max_tokens=3)) == 2
