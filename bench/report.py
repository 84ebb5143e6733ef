"""The table beside its bars, `bench/out/latest.json`, and the plot."""

import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

Value = float | Mapping[str, float]

OUT = Path(__file__).parent / "out"
PLOT = Path(__file__).parent / "added_by_adapters.svg"

BARS: Mapping[str, float] = {
    "base_vs_vllm": 1.2,
    "lora8_vs_base": 0.85,
    "lora1_vs_base": 0.93,
    "lora8_vs_vllm": 5.0,
    "lora8_vs_peft": 6.0,
    "lora32_vs_base": 0.68,
    "base_on_lora_worker": 0.98,
    "zipf1000_vs_lora8": 0.70,
    # 32 sampled rows cost at most 1.10 of 32 greedy ones.
    "sampled_vs_base": 0.91,
    "share_of_linear_floor": 0.55,
    "single_stream_vs_vllm": 1.2,
    "prefill_tok_s_vs_vllm": 1.0,
}
CEILINGS: Mapping[str, float] = {"cold_adapter_added_ms": 60.0, "rss_per_adapter_over_file": 1.2}


def write(results: Mapping[str, Value]) -> None:
    """Print the results beside what they must reach, and keep them with date, machine and versions."""
    machine = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    OUT.mkdir(exist_ok=True)
    latest = OUT / "latest.json"
    earlier = json.loads(latest.read_text()) if latest.exists() else {}
    latest.write_text(json.dumps({**earlier, **results, "machine": machine}, indent=2) + "\n")
    for name, value in results.items():
        if isinstance(value, Mapping):
            print(f"{name:28} {'  '.join(f'{key}: {one:.0f}' for key, one in value.items())}")
        else:
            print(f"{name:28} {value:10.3f}   {_verdict(name, value)}")
    curve = results.get("added_by_adapters")
    if isinstance(curve, Mapping):
        PLOT.write_text(_plot(curve))


def _verdict(name: str, value: float) -> str:
    if name in BARS:
        return f"bar {BARS[name]:g}: {'reached' if value >= BARS[name] else 'SHORT'}"
    if name in CEILINGS:
        return f"at most {CEILINGS[name]:g}: {'held' if value <= CEILINGS[name] else 'OVER'}"
    return ""


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _plot(curve: Mapping[str, float]) -> str:
    """Tokens a second over distinct adapters, on a logarithmic axis, as SVG."""
    width, height, left, bottom = 640, 320, 60, 40
    top = 1.1 * max(curve.values())
    points = [
        (
            left + place * (width - left - 20) / (len(curve) - 1),
            (height - bottom) * (1 - value / top),
            name,
            value,
        )
        for place, (name, value) in enumerate(curve.items())
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#2563eb"/>'
        f'<text x="{x:.1f}" y="{y - 10:.1f}" text-anchor="middle">{value:.0f}</text>'
        f'<text x="{x:.1f}" y="{height - bottom + 20}" text-anchor="middle">{name}</text>'
        for x, y, name, value in points
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
        f'<rect width="{width}" height="{height}" fill="white"/>'
        f'<line x1="{left}" y1="{height - bottom}" x2="{width - 10}" y2="{height - bottom}" stroke="#888"/>'
        f'<polyline points="{line}" fill="none" stroke="#2563eb" stroke-width="2"/>{marks}'
        f'<text x="{width / 2}" y="{height - 5}" text-anchor="middle">distinct adapters in the batch (64: 64 requests)</text>'
        f'<text x="14" y="{height / 2}" text-anchor="middle" transform="rotate(-90 14 {height / 2})">tokens/s</text></svg>\n'
    )
