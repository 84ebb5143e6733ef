"""Which runner a model gets."""

from pathlib import Path

import pytest

from services.worker.engine.local.model.base_weights import load_base_model
from services.worker.engine.local.model.probe import probe_model
from services.worker.engine.local.native.kernels import build
from services.worker.engine.local.native.native_runner import NativeRunner
from services.worker.engine.local.runner import Runner, make_runner
from services.worker.engine.local.torch_form.torch_runner import TorchRunner
from tests.support.models import write_tiny_base


def runner_of(folder: Path, family: str, *, block_size: int = 16, use_kernels: bool = True) -> Runner:
    base = load_base_model(write_tiny_base(folder, family=family), "cpu", "float32")
    probe = probe_model(base.model)
    return make_runner(base, probe, blocks=8, block_size=block_size, use_kernels=use_kernels, threads=1)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3"])
def test_llama_and_its_relatives_run_natively(tmp_path: Path, family: str) -> None:
    assert isinstance(runner_of(tmp_path, family), NativeRunner)


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2"])
def test_other_families_run_in_torch(tmp_path: Path, family: str) -> None:
    assert isinstance(runner_of(tmp_path, family), TorchRunner)


def test_odd_blocks_and_the_operators_word_lead_to_torch(tmp_path: Path) -> None:
    assert isinstance(runner_of(tmp_path / "a", "llama", block_size=8), TorchRunner)
    assert isinstance(runner_of(tmp_path / "b", "llama", use_kernels=False), TorchRunner)


def test_a_machine_without_a_compiler_runs_in_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from services.worker.engine.local.native.kernels import library  # noqa: PLC0415 - its cache is this test's business

    monkeypatch.setenv("CXX", "/nowhere/c++")
    monkeypatch.setenv("LORAMUX_HOME", str(tmp_path / "home"))
    library._load.cache_clear()
    try:
        assert build.build(build.usable_isas()[0]) is None
        assert isinstance(runner_of(tmp_path / "model", "llama"), TorchRunner)
    finally:
        library._load.cache_clear()
