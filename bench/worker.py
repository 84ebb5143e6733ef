"""What a worker costs over its bare engine: `make bench-worker`.

The same 32 sequences on an engine in this process, and through a worker process by gRPC. The engine's loop shares its
interpreter lock with gRPC there; if that cost much, the engine would have to be a process of its own.
"""

import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import report
from bench.workload import Workload, tokens_per_second
from services.worker.engine.local.engine_config import EngineConfig
from services.worker.engine.local.local_engine import LocalEngine
from tests.support.paths import BASE
from tests.support.worker import (
    WorkerClient,
    registry_variables,
    running_service,
    worker_client,
    worker_variables,
)

ROUNDS = 3


async def through_worker(client: WorkerClient, prompts: Sequence[Sequence[int]], new: int) -> float:
    """New tokens a second over all streams."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    answers = await asyncio.gather(
        *(client.answer(prompt, max_tokens=new, ignore_eos=True) for prompt in prompts)
    )
    return sum(len(one.token_ids) for one in answers) / (loop.time() - started)


async def run(address: str) -> dict[str, report.Value]:
    """Both by turns."""
    engine = await LocalEngine.start(EngineConfig(BASE, dtype="bfloat16", prefix_cache=False))
    workload = Workload()
    speeds: dict[str, list[float]] = {"engine": [], "worker": []}
    async with worker_client(address) as client:
        for number in range(ROUNDS + 1):  # the first warms both up
            found = {
                "engine": await tokens_per_second(engine, workload, [None]),
                "worker": await through_worker(client, workload.prompts(), workload.new),
            }
            for name, speed in found.items():
                print(f"  round {number}/{ROUNDS}  {name:10} {speed:8.1f} tokens/s", flush=True)
                speeds[name] += [speed] if number else []
    await engine.stop()
    return {"worker_vs_engine": statistics.median(speeds["worker"]) / statistics.median(speeds["engine"])}


def main() -> None:
    """Run, print, and merge into bench/out/latest.json."""
    threads = str(EngineConfig(BASE).resolved_threads())
    torch.set_num_threads(int(threads))
    with tempfile.TemporaryDirectory() as name:
        folder, nowhere = Path(name), "http://127.0.0.1:9"
        with running_service("registry", registry_variables(folder, BASE, nowhere)) as registry:
            options = {
                "DTYPE": "bfloat16",
                "THREADS": threads,
                "PREFIX_CACHE": "false",
                "MAX_SEQUENCES": "32",
            }
            variables = worker_variables(registry.address, nowhere, folder / "cache", **options)
            with running_service("worker", variables) as worker:
                report.write(asyncio.run(run(worker.address)))


if __name__ == "__main__":
    main()
