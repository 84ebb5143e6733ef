"""Adapters for the benchmark, made from seeds: rank 16 on all seven projections of SmolLM2-135M."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from services.worker.engine.interface import AdapterFiles
from tests.support.paths import BASE

RANK = 16
PROJECTIONS = {
    "self_attn.q_proj": (576, 576),
    "self_attn.k_proj": (576, 192),
    "self_attn.v_proj": (576, 192),
    "self_attn.o_proj": (576, 576),
    "mlp.gate_proj": (576, 1536),
    "mlp.up_proj": (576, 1536),
    "mlp.down_proj": (1536, 576),
}
LAYERS = 30


def make_adapters(folder: Path, count: int) -> list[AdapterFiles]:
    """Adapters 0 to count - 1 under `folder`; those that are there are taken as they are."""
    return [_make(folder / f"{seed:04d}", seed) for seed in range(count)]


def _make(folder: Path, seed: int) -> AdapterFiles:
    weights = folder / "adapter_model.safetensors"
    if not weights.exists():
        folder.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for layer in range(LAYERS):
            for name, (inputs, outputs) in PROJECTIONS.items():
                path = f"base_model.model.model.layers.{layer}.{name}"
                for half, shape in (("A", (RANK, inputs)), ("B", (outputs, RANK))):
                    values = torch.randn(shape, generator=generator) * 0.02
                    tensors[f"{path}.lora_{half}.weight"] = values.to(torch.bfloat16)
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(BASE),
            "r": RANK,
            "lora_alpha": 2 * RANK,
            "target_modules": [name.split(".")[1] for name in PROJECTIONS],
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
        save_file(tensors, weights, metadata={"format": "pt"})
    return AdapterFiles(f"{seed:064x}", folder)
