"""Adapters of two modules, written tensor by tensor, and a loader for a base of which only those are there."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from services.worker.engine.interface import AdapterFiles
from services.worker.engine.local.adapters.loaded_adapter import LoadedAdapter
from services.worker.engine.local.adapters.loader import AdapterLoader
from services.worker.engine.local.model.probe import (
    LinearModule,
    ModelProbe,
    NormModule,
    linear_bias,
    linear_weight,
)

Q = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.11.mlp.down_proj"
HEAD, EMBEDDING, NORM = "lm_head", "model.embed_tokens", "model.norm"
VOCABULARY = 20
LINEARS = {
    Q: LinearModule(nn.Linear(8, 6), 8, 6, sampled_rows=False),
    DOWN: LinearModule(nn.Linear(12, 8, bias=False), 12, 8, sampled_rows=False),
    HEAD: LinearModule(nn.Linear(8, VOCABULARY, bias=False), 8, VOCABULARY, sampled_rows=True),
}
NORMS = {NORM: NormModule(nn.LayerNorm(8), {"weight": 8, "bias": 8})}
TABLE = torch.randn(VOCABULARY, 8, generator=torch.Generator().manual_seed(9))


class Base:
    """The weights of LINEARS and TABLE; see BaseWeights."""

    def weight(self, path: str) -> Tensor:
        return TABLE if path == EMBEDDING else linear_weight(LINEARS[path].module)

    def bias(self, path: str) -> Tensor | None:
        return linear_bias(LINEARS[path].module)

    def parts(self, path: str) -> int:
        return 1

    def embedding_scale(self) -> float:
        return 1.0


def name(path: str, half: str) -> str:
    return part(path, f"lora_{half}.weight")


def part(path: str, what: str) -> str:
    return f"base_model.model.{path}.{what}"


def tensors(rank: int = 2, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name(path, half): torch.randn(*shape, generator=generator).to(dtype)
        for path, linear in LINEARS.items()
        if path != HEAD
        for half, shape in (("A", (rank, linear.inputs)), ("B", (linear.outputs, rank)))
    }


def write(folder: Path, weights: dict[str, Tensor] | None = None, **config: Any) -> AdapterFiles:
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "r": 2,
                "lora_alpha": 4,
                "target_modules": ["q_proj", "down_proj", HEAD, "embed_tokens"],
                **config,
            }
        )
    )
    save_file(tensors() if weights is None else weights, folder / "adapter_model.safetensors")
    return AdapterFiles("digest", folder)


def loader(dtype: torch.dtype = torch.float32, *, tied: bool = False) -> AdapterLoader:
    paths = frozenset(("", "model", EMBEDDING, *LINEARS, *NORMS))
    probe = ModelProbe({}, {}, LINEARS, NORMS, embedding=EMBEDDING, output=HEAD, tied=tied, paths=paths)
    return AdapterLoader(probe, Base(), dtype, torch.device("cpu"), LoadedAdapter)
