"""Adapters for the benchmark, made from seeds: rank 16 on all seven projections of a Llama, which SmolLM2-135M is."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from services.worker.engine.interface import AdapterFiles
from tests.support.paths import BASE

RANK = 16


def make_adapters(folder: Path, count: int, *, base: Path = BASE) -> list[AdapterFiles]:
    """Adapters 0 to count - 1 under `folder`; those that are there are taken as they are."""
    config = json.loads((base / "config.json").read_text())
    shapes, layers = projections(config), config["num_hidden_layers"]
    return [_make(folder / f"{seed:04d}", seed, base, shapes, layers) for seed in range(count)]


def projections(config: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each projection of a layer, from a Llama's config.json."""
    hidden, between, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    wide, narrow = heads * head, config["num_key_value_heads"] * head
    return {
        "self_attn.q_proj": (hidden, wide),
        "self_attn.k_proj": (hidden, narrow),
        "self_attn.v_proj": (hidden, narrow),
        "self_attn.o_proj": (wide, hidden),
        "mlp.gate_proj": (hidden, between),
        "mlp.up_proj": (hidden, between),
        "mlp.down_proj": (between, hidden),
    }


def _make(
    folder: Path, seed: int, base: Path, shapes: dict[str, tuple[int, int]], layers: int
) -> AdapterFiles:
    weights = folder / "adapter_model.safetensors"
    if not weights.exists():
        folder.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for layer in range(layers):
            for name, (inputs, outputs) in shapes.items():
                path = f"base_model.model.model.layers.{layer}.{name}"
                for half, shape in (("A", (RANK, inputs)), ("B", (outputs, RANK))):
                    values = torch.randn(shape, generator=generator) * 0.02
                    tensors[f"{path}.lora_{half}.weight"] = values.to(torch.bfloat16)
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(base),
            "r": RANK,
            "lora_alpha": 2 * RANK,
            "target_modules": [name.split(".")[1] for name in shapes],
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
        save_file(tensors, weights, metadata={"format": "pt"})
    return AdapterFiles(f"{seed:064x}", folder)
