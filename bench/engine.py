"""Our engine against itself and the machine: `make bench`.

SmolLM2-135M in bfloat16, 64 tokens in, 128 out, 32 at once, greedy; rank 16 on seven projections. What is compared takes
turns within one run, and each ratio is the median of the rounds' own; only ratios mean anything on a shared machine.
"""

import argparse
import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import torch

from bench.results import report
from bench.rows.adapter_rows import adapters_in_a_batch, curve, over_disk
from bench.rows.cold_adapters import cold_adapters, resident_memory
from bench.rows.open_loop import open_loop
from bench.rows.request_kinds import alone_and_prefill, long_context, sampled
from bench.rows.setup import Setup, set_up
from bench.rows.shared_cores import busy_machine, threads_over_asked
from bench.rows.vocabularies import vocabularies
from bench.scale import FULL, QUICK, Scale
from loramux.profile import home
from services.worker.engine.local.engine_config import EngineConfig
from tests.support.paths import BASE

ROUNDS, QUICK_ROUNDS = 7, 2

ROWS: Mapping[str, Callable[[Setup], Awaitable[dict[str, report.Value]]]] = {
    "memory": resident_memory,  # first: no adapter is resident yet
    "adapters": adapters_in_a_batch,
    "curve": curve,
    "sampled": sampled,
    "vocabularies": vocabularies,
    "single": alone_and_prefill,
    "long": long_context,
    "disk": over_disk,
    "cold": cold_adapters,
    "busy": busy_machine,
    "threads": threads_over_asked,
    "open": open_loop,
}


async def run(
    scale: Scale, rounds: int, folder: Path, chosen: Sequence[str] = ()
) -> AsyncGenerator[dict[str, report.Value]]:
    """Measure the chosen rows, or all, one after another; adapters lie under `folder`. The keys are those of docs/performance.md."""
    async with set_up(scale, rounds, folder) as setup:
        for name, measure in ROWS.items():
            if name in chosen or not chosen:
                print(name, flush=True)
                yield await measure(setup)


async def run_and_keep(
    scale: Scale, rounds: int, folder: Path, chosen: Sequence[str]
) -> dict[str, report.Value]:
    """As `run`, each row written as soon as it is there: a run is long, and may be cut short."""
    results: dict[str, report.Value] = {}
    async with aclosing(run(scale, rounds, folder, chosen)) as rows:
        async for found in rows:
            report.keep("engine", found, quick=scale.quick)
            results |= found
    return results


def main() -> None:
    """Run the benchmark, print the table, write it under bench/out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="which; all unless given")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}, with --quick {QUICK_ROUNDS}")
    parser.add_argument("--adapters-on-disk", type=int, help=f"{FULL.on_disk}, of 10 MB each")
    parser.add_argument("--quick", action="store_true", help="less of everything, to see that it runs")
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    if options.adapters_on_disk is not None:
        if options.adapters_on_disk < scale.slots:
            parser.error(f"--adapters-on-disk is at least {scale.slots}, which are resident at once")
        scale = replace(scale, on_disk=options.adapters_on_disk)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    torch.set_num_threads(EngineConfig(BASE).resolved_threads())
    folder = home() / "bench" / "adapters"
    results = asyncio.run(run_and_keep(scale, rounds, folder, options.rows))
    report.show("engine", results, quick=scale.quick)


if __name__ == "__main__":
    main()
