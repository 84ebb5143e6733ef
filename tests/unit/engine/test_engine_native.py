"""A step on the native kernels: one call through all layers, whatever the adapters in it bring."""

from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from ctypes import Structure
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from services.worker.engine.local.adapters.loaded_adapter import LoadedAdapter
from services.worker.engine.local.adapters.loader import AdapterLoader
from services.worker.engine.local.model.base_weights import load_base_model
from services.worker.engine.local.model.probe import probe_model
from services.worker.engine.local.native.decoder import NativeDecoder
from services.worker.engine.local.native.kernels import Kernels, load_kernels
from services.worker.engine.local.native.native_runner import NativeRunner
from services.worker.engine.local.output_streams import OutputStream
from services.worker.engine.local.schedule.scheduler import StepChunk
from services.worker.engine.local.schedule.sequence import Sequence as EngineSequence
from tests.support.engine import Stepper, files_of, make_request
from tests.support.models import write_random_adapter, write_tiny_base

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
]

# What an adapter of each family may bring beside its deltas.
BROUGHT: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "llama": [{}, {"modules_to_save": ["norm"]}, {"modules_to_save": ["layers.1.input_layernorm"]}],
    "qwen3": [{}, {"modules_to_save": ["norm"]}, {"modules_to_save": ["layers.0.self_attn.k_norm"]}],
    "gemma2": [
        {},
        {"modules_to_save": ["norm"]},
        {"modules_to_save": ["lm_head", "pre_feedforward_layernorm"]},
    ],
    "gemma3": [{}, {"modules_to_save": ["norm"]}, {"modules_to_save": ["post_feedforward_layernorm"]}],
}
PROMPT = 9


def adapters_of(base: Path, family: str) -> list[Path]:
    return [
        write_random_adapter(
            base.parent / f"a{seed}", base, rank=3 + seed, seed=seed, target_modules=["q_proj"], **brought
        )
        for seed, brought in enumerate(BROUGHT[family])
    ]


def tokens_of(count: int, seed: int) -> list[int]:
    return torch.randint(3, 384, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", BROUGHT)
def test_rows_beside_norms_of_others_have_the_same_bits(
    tmp_path: Path, family: str, dtype: Literal["float32", "bfloat16"]
) -> None:
    base = write_tiny_base(tmp_path / "base", family=family)
    folders = [None, *adapters_of(base, family)]
    # Two of each, apart from one another, so that adapters' rows come in runs of several.
    asked = [
        (tokens_of(PROMPT + 6 + number, number), folder) for number, folder in enumerate([*folders, *folders])
    ]

    def logits(threads: int, *, together: bool) -> list[torch.Tensor]:
        stepper = Stepper(base, dtype=dtype, threads=threads, prefill_tokens=30)
        loaded = {folder: stepper.loader.load(files_of(folder)) for folder in folders if folder is not None}
        sequences = [(tokens, None if folder is None else loaded[folder]) for tokens, folder in asked]
        if together:
            return stepper.logits(sequences, prompt_length=PROMPT)
        return [stepper.logits([one], prompt_length=PROMPT)[0] for one in sequences]

    alone = logits(1, together=False)
    for threads in (1, 3):
        for found, expected in zip(logits(threads, together=True), alone, strict=True):
            assert torch.equal(found, expected)


def counted(kernels: Kernels, calls: Counter[str]) -> Kernels:
    """The same kernels, which note each call."""

    def noting(name: str) -> Callable[[Structure], None]:
        run: Callable[[Structure], None] = getattr(kernels, name)

        def call(job: Structure) -> None:
            calls[name] += 1
            run(job)

        return call

    # Any: what `replace` takes, fields of every type.
    noted: dict[str, Any] = {
        name: noting(name) for name in ("linear", "attention", "rope", "norm", "forward")
    }
    return replace(kernels, **noted)


@pytest.mark.parametrize("family", BROUGHT)
def test_a_step_is_one_call_and_one_for_each_output_layer(tmp_path: Path, family: str) -> None:
    folder = write_tiny_base(tmp_path / "base", family=family)
    base = load_base_model(folder, "cpu", "float32")
    probe = probe_model(base.model)
    kernels = load_kernels(torch.float32, threads=1)
    assert kernels is not None
    calls: Counter[str] = Counter()
    runner = NativeRunner(NativeDecoder(base, probe, counted(kernels, calls), blocks=8, block_size=16))
    loader = AdapterLoader(probe, runner, base.dtype, base.device, runner.prepare)
    loaded = [loader.load(files_of(one)) for one in adapters_of(folder, family)]
    chunks: list[StepChunk[LoadedAdapter]] = []
    for number, adapter in enumerate([None, *loaded]):
        sequence = EngineSequence(make_request(tokens_of(5, number)), adapter, frozenset(), OutputStream())
        sequence.blocks = array("i", [1 + number])
        chunks.append(StepChunk(sequence, 0, 5))
    calls.clear()
    assert runner.run(chunks).shape[0] == len(chunks)
    heads = sum(one.native is not None and one.native.head is not None for one in loaded)
    assert calls == {"forward": 1, "linear": 1 + heads}
