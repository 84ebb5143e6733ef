"""The floor: nothing but the base's linear layers, their weights prepacked for oneDNN, at one decode step."""

import json
import time
from pathlib import Path

import torch

from bench.adapters import projections

_STEPS = 40


class LinearFloor:
    """All linear layers of a Llama in bfloat16, of random weights."""

    def __init__(self, base: Path, rows: int) -> None:
        """Raises RuntimeError on a CPU that oneDNN does not multiply bfloat16 on."""
        config = json.loads((base / "config.json").read_text())
        of = projections(config)
        hidden, q, k, v = of["self_attn.q_proj"][0], *(of[f"self_attn.{one}_proj"][1] for one in "qkv")
        between = of["mlp.gate_proj"][1]
        layer = [(hidden, q + k + v), (q, hidden), (hidden, 2 * between), (between, hidden)]
        shapes = layer * config["num_hidden_layers"] + [(hidden, config["vocab_size"])]
        self._rows = rows
        self._inputs = {width: torch.randn(rows, width).to(torch.bfloat16) for width, _ in shapes}
        self._packed = [
            (width, torch.ops.mkldnn._reorder_linear_weight(torch.randn(out, width).to(torch.bfloat16), rows))
            for width, out in shapes
        ]

    def tokens_per_second(self) -> float:
        """Rows a second through all of them."""
        started = time.perf_counter()
        for _ in range(_STEPS):
            for width, weight in self._packed:
                torch.ops.mkldnn._linear_pointwise(self._inputs[width], weight, None, "none", [], "")
        return self._rows * _STEPS / (time.perf_counter() - started)
