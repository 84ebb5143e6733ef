"""What it takes to bring an adapter in: time from disk, and memory once it is there."""

import time
from collections.abc import Sequence

from bench import page_cache
from bench.memory import resident_bytes
from bench.results.ratios import estimate
from bench.results.report import Value
from bench.rows.setup import Setup
from bench.workload import Workload, ask
from services.worker.engine.interface import AdapterFiles
from services.worker.engine.local.local_engine import LocalEngine

_GROUP = 8
WEIGHTS = "adapter_model.safetensors"


async def resident_memory(setup: Setup) -> dict[str, Value]:
    """What a resident adapter takes: in MB, and over the size of its file. Before any other row: slots are empty yet."""
    megabytes, over_file = [], []
    # In groups: memory is taken from the kernel in larger pieces than one adapter.
    resident = setup.adapters[: setup.scale.slots]
    for start in range(0, len(resident), _GROUP):
        group = resident[start : start + _GROUP]
        before = resident_bytes()
        for files in group:
            async with setup.loaded.adapter(files):
                pass
        taken = resident_bytes() - before
        megabytes.append(taken / len(group) / 1e6)
        over_file.append(taken / sum((one.folder / WEIGHTS).stat().st_size for one in group))
    return {"rss_per_adapter_mb": estimate(megabytes), "rss_per_adapter_over_file": estimate(over_file)}


async def cold_adapters(setup: Setup) -> dict[str, Value]:
    """Time to first token that an adapter on disk adds over the same adapter in memory, by adapter."""
    prompt = setup.scale.workload(requests=1).prompts()[0]
    added, in_memory = [], 0
    for files in setup.cold:
        for path in files.folder.iterdir():
            page_cache.drop(path)
        in_memory += page_cache.resident_share(files.folder / WEIGHTS) > 0
        cold = await _first_token_seconds(setup.loaded, prompt, files)
        added.append(1e3 * (cold - await _first_token_seconds(setup.loaded, prompt, files)))
    results: dict[str, Value] = {"cold_adapter_added_ms": estimate(added)}
    if in_memory:
        # Such as tmpfs; the figure is then of files in memory, and says so.
        results["cold_adapter_files_in_memory"] = float(in_memory)
    return results


async def _first_token_seconds(engine: LocalEngine, prompt: Sequence[int], files: AdapterFiles) -> float:
    """From asking for an adapter to its first token."""
    started = time.perf_counter()
    answer = await ask(engine, prompt, Workload(new=1).sampling(0), files)
    return answer.arrivals[0][0] - started
