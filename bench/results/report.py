"""The table beside its bars, and `bench/out/<kind of CPU>/latest.json`."""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch
import transformers

from bench.results.bars import verdict
from bench.results.cpu_kind import slug, this_cpu
from bench.results.ratios import Estimate

Value = Estimate | float | Mapping[str, float] | str
"""Of rounds, of a count, several that belong together, or why there is none."""

OUT = Path(__file__).parents[1] / "out"


def keep(section: str, results: Mapping[str, Value], *, quick: bool = False, out: Path = OUT) -> Path:
    """Write results under the command's own section, each with its date; returns the file.

    A row of an earlier run stays until it is measured again. Quick ones go into a file of their own.
    """
    kind, name = this_cpu()
    path = out / slug(kind) / ("quick.json" if quick else "latest.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept.setdefault(section, {}).update(_document(results, name))
    path.write_text(json.dumps(kept, indent=2) + "\n")
    return path


def show(section: str, results: Mapping[str, Value], *, quick: bool = False) -> None:
    """Print the results beside their bars; quick ones, which are for trying the rows out, without."""
    kind, name = this_cpu()
    print(f"\n{section} on {kind} ({name}), {torch.get_num_threads()} threads")
    if quick:
        print("QUICK: less of everything, to see that it runs. No figure here means anything.")
    for row, value in results.items():
        print(line(row, value, kind, quick=quick))


def line(name: str, value: Value, kind: str, *, quick: bool = False) -> str:
    """A row of the table: median, interval, rounds and verdict."""
    if isinstance(value, str):
        return f"{name:32} {value}"
    if isinstance(value, Mapping):
        return f"{name:32} " + "  ".join(f"{key}: {_short(one)}" for key, one in value.items())
    said = "" if quick else verdict(name, value, kind)
    if isinstance(value, Estimate):
        spread = f"({_short(value.low)} - {_short(value.high)}, {len(value.values)} rounds)"
        return f"{name:32} {_short(value.median):>8} {spread:32} {said}".rstrip()
    return f"{name:32} {_short(value):>8} {'':32} {said}".rstrip()


def _document(results: Mapping[str, Value], cpu: str) -> dict[str, dict[str, object]]:
    machine = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return {
        name: {"value": asdict(value) if isinstance(value, Estimate) else value, "of": machine}
        for name, value in results.items()
    }


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
