"""Where cores are not the engine's alone: beside a busy process, and with more threads asked for than there are cores."""

import os
from contextlib import AbstractContextManager, nullcontext

from bench.busy_process import BusyProcess
from bench.results.ratios import estimate, ratio
from bench.results.report import Value
from bench.rows.setup import Setup, speed_of
from bench.turns import Candidate, take_turns
from bench.workload import BASE_ONLY, Workload, tokens_per_second
from services.worker.engine.local.local_engine import LocalEngine
from services.worker.engine.local.processors import most_threads


async def busy_machine(setup: Setup) -> dict[str, Value]:
    """Beside one process on one core: of the least priority, and of the engine's own."""
    results: dict[str, Value] = {}
    with (
        BusyProcess(nice=19) as least,
        BusyProcess(nice=os.getpriority(os.PRIO_PROCESS, 0)) as equal,
    ):
        neighbours = {"quiet": None, "nice19": least, "equal": equal}
        for ending, requests in (("", setup.scale.requests), ("_one", 1)):
            workload = setup.scale.workload(requests=requests)
            found = await take_turns(
                [
                    _beside(f"{requests} at once, {name}", setup.bare, workload, process)
                    for name, process in neighbours.items()
                ],
                setup.rounds,
            )
            figures = dict(zip(neighbours, found.values(), strict=True))
            results[f"busy_nice19_vs_quiet{ending}"] = ratio(figures, "nice19", "quiet")
            results[f"busy_equal_vs_quiet{ending}"] = ratio(figures, "equal", "quiet")
            results[f"busy_quiet_tok_s{ending}"] = estimate(figures["quiet"])
    return results


async def threads_over_asked(setup: Setup) -> dict[str, Value]:
    """Four times as many threads asked for as can run (8 where two can), over the default."""
    results: dict[str, Value] = {}
    async with setup.another(threads=4 * most_threads()) as over:
        for ending, requests in (("", setup.scale.requests), ("_one", 1)):
            workload = setup.scale.workload(requests=requests)
            found = await take_turns(
                [
                    speed_of("default threads", setup.bare, workload),
                    speed_of("threads over-asked", over, workload),
                ],
                setup.rounds,
            )
            results[f"over_asked_vs_default{ending}"] = ratio(found, "threads over-asked", "default threads")
    return results


def _beside(name: str, engine: LocalEngine, workload: Workload, process: BusyProcess | None) -> Candidate:
    async def measure(_number: int) -> float:
        busy: AbstractContextManager[None] = nullcontext() if process is None else process.busy()
        with busy:
            return await tokens_per_second(engine, workload, BASE_ONLY)

    return Candidate(name, measure)
