"""What a worker costs over its bare engine: `make bench-worker`.

The same 32 sequences on an engine in this process, and through a worker process by gRPC. The engine's loop shares its
interpreter lock with gRPC there; if that cost much, the engine would have to be a process of its own.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.engine import QUICK_ROUNDS, ROUNDS
from bench.results import report
from bench.results.ratios import ratio
from bench.rows.setup import speed_of, warm_engine
from bench.scale import FULL, QUICK, Scale
from bench.turns import Candidate, take_turns
from services.worker.engine.local.engine_config import EngineConfig
from tests.support.paths import BASE
from tests.support.worker import (
    WorkerClient,
    registry_variables,
    running_service,
    worker_client,
    worker_variables,
)


async def through_worker(client: WorkerClient, prompts: Sequence[Sequence[int]], new: int) -> float:
    """New tokens a second over all streams."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    answers = await asyncio.gather(
        *(client.answer(prompt, max_tokens=new, ignore_eos=True) for prompt in prompts)
    )
    return sum(len(one.token_ids) for one in answers) / (loop.time() - started)


async def run(address: str, scale: Scale, rounds: int) -> dict[str, report.Value]:
    """Both by turns."""
    workload = scale.workload()
    engine = await warm_engine(EngineConfig(scale.base, dtype="bfloat16", prefix_cache=False), scale)
    async with worker_client(address) as client:

        async def measure(_number: int) -> float:
            return await through_worker(client, workload.prompts(), workload.new)

        found = await take_turns([speed_of("engine", engine, workload), Candidate("worker", measure)], rounds)
    await engine.stop()
    return {"worker_vs_engine": ratio(found, "worker", "engine")}


def main() -> None:
    """Run the comparison, print the table, write it under bench/out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}, with --quick {QUICK_ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="less of everything, to see that it runs")
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    threads = str(EngineConfig(BASE).resolved_threads())
    torch.set_num_threads(int(threads))
    with tempfile.TemporaryDirectory() as name:
        folder, nowhere = Path(name), "http://127.0.0.1:9"
        with running_service("registry", registry_variables(folder, BASE, nowhere)) as registry:
            settings = {
                "DTYPE": "bfloat16",
                "THREADS": threads,
                "PREFIX_CACHE": "false",
                "MAX_SEQUENCES": "32",
            }
            variables = worker_variables(registry.address, nowhere, folder / "cache", **settings)
            with running_service("worker", variables) as worker:
                results = asyncio.run(run(worker.address, scale, rounds))
    report.keep("worker", results, quick=scale.quick)
    report.show("worker", results, quick=scale.quick)


if __name__ == "__main__":
    main()
