"""Tokens a second over distinct adapters, as SVG: `make bench-plot` draws what the last `make bench` on this CPU found.

The drawing is tracked and the benchmark's results are not, so it is drawn only when asked for.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from bench.results.cpu_kind import slug, this_cpu
from bench.results.report import OUT

PLOT = Path(__file__).parents[1] / "added_by_adapters.svg"


def draw(curve: Mapping[str, float]) -> str:
    """The curve, by number of adapters, on a logarithmic axis."""
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


def main() -> None:
    """Draw from latest.json."""
    latest = OUT / slug(this_cpu()[0]) / "latest.json"
    if not latest.exists():
        raise SystemExit(f"{latest} is not there: `make bench` writes it")
    PLOT.write_text(draw(json.loads(latest.read_text())["engine"]["added_by_adapters"]["value"]))


if __name__ == "__main__":
    main()
