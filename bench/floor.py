"""The floor: nothing but the base's linear layers, their weights prepacked for oneDNN, at one decode step."""

import time

import torch

HIDDEN, KV, INTERMEDIATE, VOCABULARY, LAYERS = 576, 192, 1536, 49_152, 30
_SHAPES = ((HIDDEN, HIDDEN + 2 * KV), (HIDDEN, HIDDEN), (HIDDEN, 2 * INTERMEDIATE), (INTERMEDIATE, HIDDEN))
_STEPS = 40


def linear_floor_tokens_per_second(rows: int, rounds: int) -> float:
    """Rows a second through all linear layers of SmolLM2-135M in bfloat16, the best of `rounds`."""
    shapes = [shape for _ in range(LAYERS) for shape in _SHAPES] + [(HIDDEN, VOCABULARY)]
    inputs = {width: torch.randn(rows, width).to(torch.bfloat16) for width, _ in shapes}
    packed = [
        (width, torch.ops.mkldnn._reorder_linear_weight(torch.randn(out, width).to(torch.bfloat16), rows))
        for width, out in shapes
    ]
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(_STEPS):
            for width, weight in packed:
                torch.ops.mkldnn._linear_pointwise(inputs[width], weight, None, "none", [], "")
        best = min(best, (time.perf_counter() - started) / _STEPS)
    return rows / best
