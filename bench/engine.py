"""Our engine against itself and the machine: `make bench`.

SmolLM2-135M in bfloat16, 64 tokens in, 128 out, 32 at once, greedy; rank 16 on seven projections. Candidates take
turns within one run, and each shows its median; only ratios mean anything on a shared machine.
"""

import argparse
import asyncio
import itertools
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bench import report
from bench.adapters import make_adapters
from bench.floor import linear_floor_tokens_per_second
from bench.memory import resident_bytes
from bench.workload import Workload, first_token_seconds, tokens_per_second
from loramux.profile import home
from services.worker.engine.interface import AdapterFiles
from services.worker.engine.local.engine_config import EngineConfig
from services.worker.engine.local.local_engine import LocalEngine
from tests.support.paths import BASE

SLOTS = 64
COUNTS = (1, 2, 4, 8, 16, 32, 64)
ON_DISK = 1000
BASE_ONLY: tuple[None] = (None,)


@dataclass(frozen=True)
class Candidate:
    """A named workload on one engine."""

    name: str
    engine: LocalEngine
    workload: Workload
    adapters: Sequence[AdapterFiles | None]
    at_once: int = 0


def zipf(adapters: Sequence[AdapterFiles], requests: int) -> list[AdapterFiles]:
    """An adapter for each request; the i-th likeliest is asked for in proportion to 1 / i."""
    weights = [1 / (place + 1) for place in range(len(adapters))]
    return random.Random(11).choices(adapters, weights, k=requests)  # noqa: S311 - a workload


async def take_turns(candidates: Sequence[Candidate], rounds: int) -> dict[str, float]:
    """Median tokens a second by name. Each round begins with another candidate."""
    measured: dict[str, list[float]] = {one.name: [] for one in candidates}
    for number in range(rounds):
        for one in itertools.islice(itertools.cycle(candidates), number, number + len(candidates)):
            speed = await tokens_per_second(one.engine, one.workload, one.adapters, at_once=one.at_once)
            measured[one.name].append(speed)
            print(f"  round {number + 1}/{rounds}  {one.name:24} {speed:8.1f} tokens/s", flush=True)
    return {name: statistics.median(speeds) for name, speeds in measured.items()}


async def cold_adapter_ms(engine: LocalEngine, adapters: Sequence[AdapterFiles]) -> float:
    """Median time to first token that an adapter on disk adds over the same adapter in memory."""
    prompt = Workload(requests=1).prompts()[0]
    added = []
    for files in adapters:
        cold = await first_token_seconds(engine, prompt, files)
        added.append(cold - await first_token_seconds(engine, prompt, files))
    return 1e3 * statistics.median(added)


async def memory_per_adapter(engine: LocalEngine, adapters: Sequence[AdapterFiles]) -> tuple[float, float]:
    """What a resident adapter takes: in MB, and over the size of its file."""
    before = resident_bytes()
    for files in adapters:
        async with engine.adapter(files):
            pass
    size = sum((files.folder / "adapter_model.safetensors").stat().st_size for files in adapters)
    taken = resident_bytes() - before
    return taken / len(adapters) / 1e6, taken / size


async def run(rounds: int) -> dict[str, report.Value]:
    """Measure everything; the keys are those of docs/performance.md."""
    adapters = make_adapters(home() / "bench" / "adapters", ON_DISK)
    # Every round has the same prompts. As many adapters fit the host cache as the slots: both are full before the
    # cold adapters come, as they are in a worker that has run for a while.
    config = EngineConfig(
        BASE, dtype="bfloat16", adapter_slots=SLOTS, host_cache_bytes=640 * 10**6, prefix_cache=False
    )
    loaded, bare = await LocalEngine.start(config), await LocalEngine.start(config)
    await tokens_per_second(loaded, Workload(4, 64, 4), BASE_ONLY)
    megabytes, over_file = await memory_per_adapter(loaded, adapters[:SLOTS])
    many = Workload(requests=192)
    speeds = await take_turns(
        [
            Candidate("base", bare, Workload(), BASE_ONLY),
            *(
                Candidate(f"lora{count}", loaded, Workload(), adapters[:count])
                for count in COUNTS
                if count <= 32
            ),
            Candidate("lora64", loaded, Workload(requests=64), adapters[:64]),
            Candidate("base64", bare, Workload(requests=64), BASE_ONLY),
            Candidate("base beside 8 adapters", loaded, Workload(), BASE_ONLY),
            # What most clients send.
            Candidate("sampled", bare, Workload(temperature=0.8, top_p=0.95), BASE_ONLY),
            Candidate("one stream", bare, Workload(requests=1), BASE_ONLY),
            Candidate("prefill", bare, Workload(prompt=512, new=1), BASE_ONLY),
        ],
        rounds,
    )
    over_time = await take_turns(
        [
            Candidate("8 adapters", loaded, many, adapters[:8], at_once=32),
            Candidate("1,000 on disk, Zipf", loaded, many, zipf(adapters, many.requests), at_once=32),
        ],
        rounds,
    )
    floor = linear_floor_tokens_per_second(Workload().requests, rounds)
    cold = await cold_adapter_ms(loaded, adapters[-20:])
    await loaded.stop()
    await bare.stop()
    base = speeds["base"]
    return {
        "base_tok_s": base,
        "lora8_vs_base": speeds["lora8"] / base,
        "lora1_vs_base": speeds["lora1"] / base,
        "lora32_vs_base": speeds["lora32"] / base,
        "base_on_lora_worker": speeds["base beside 8 adapters"] / base,
        "sampled_vs_base": speeds["sampled"] / base,
        "zipf1000_vs_lora8": over_time["1,000 on disk, Zipf"] / over_time["8 adapters"],
        "cold_adapter_added_ms": cold,
        "share_of_linear_floor": base / floor,
        "single_stream_tok_s": speeds["one stream"],
        "prefill_tok_s": speeds["prefill"] * 512,
        "rss_per_adapter_mb": megabytes,
        "rss_per_adapter_over_file": over_file,
        "added_by_adapters": {str(count): speeds[f"lora{count}"] for count in COUNTS},
        "lora64_vs_base64": speeds["lora64"] / speeds["base64"],
    }


def main() -> None:
    """Run the benchmark, print the table, write bench/out/latest.json and the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(EngineConfig(BASE).resolved_threads())
    report.write(asyncio.run(run(options.rounds)))


if __name__ == "__main__":
    main()
