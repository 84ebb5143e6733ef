"""What adapters cost: some and many in a batch, a batch of the base beside them, and a thousand on disk."""

import random
from collections.abc import Sequence

from bench.results.ratios import estimate, ratio
from bench.results.report import Value
from bench.rows.linear_floor import LinearFloor
from bench.rows.setup import Setup, speed_of
from bench.turns import Candidate, take_turns
from services.worker.engine.interface import AdapterFiles


def zipf(adapters: Sequence[AdapterFiles], requests: int, seed: int) -> list[AdapterFiles]:
    """An adapter for each request; the i-th likeliest is asked for in proportion to 1 / i."""
    weights = [1 / (place + 1) for place in range(len(adapters))]
    return random.Random(seed).choices(adapters, weights, k=requests)  # noqa: S311 - a workload


async def adapters_in_a_batch(setup: Setup) -> dict[str, Value]:
    """1, 8 and 32 adapters over none, on an engine that has them; and the linear layers alone."""
    workload = setup.scale.workload()
    candidates = [
        speed_of("base", setup.bare, workload),
        *(speed_of(f"lora{n}", setup.loaded, workload, setup.adapters[:n]) for n in (1, 8, 32)),
        speed_of("base beside adapters", setup.loaded, workload),
    ]
    floor: Value = "oneDNN does not multiply bfloat16 on this CPU"
    try:
        layers = LinearFloor(setup.scale.base, workload.requests)
    except RuntimeError:
        pass
    else:

        async def measure(_number: int) -> float:
            return layers.tokens_per_second()

        candidates.insert(1, Candidate("linear floor", measure))
    found = await take_turns(candidates, setup.rounds)
    if "linear floor" in found:
        floor = ratio(found, "base", "linear floor")
    return {
        "base_tok_s": estimate(found["base"]),
        "lora1_vs_base": ratio(found, "lora1", "base"),
        "lora8_vs_base": ratio(found, "lora8", "base"),
        "lora32_vs_base": ratio(found, "lora32", "base"),
        "base_on_lora_worker": ratio(found, "base beside adapters", "base"),
        "share_of_linear_floor": floor,
    }


async def curve(setup: Setup) -> dict[str, Value]:
    """Tokens a second over distinct adapters; 64 are of 64 requests, beside the base with as many."""
    workload, double = setup.scale.workload(), setup.scale.workload(requests=2 * setup.scale.requests)
    found = await take_turns(
        [speed_of(str(n), setup.loaded, workload, setup.adapters[:n]) for n in (1, 2, 4, 8, 16, 32)],
        setup.rounds,
    )
    found |= await take_turns(
        [
            speed_of("64", setup.loaded, double, setup.adapters[:64]),
            speed_of("base64", setup.bare, double),
        ],
        setup.rounds,
    )
    return {
        "added_by_adapters": {
            name: estimate(figures).median for name, figures in found.items() if name != "base64"
        },
        "lora64_vs_base64": ratio(found, "64", "base64"),
    }


async def over_disk(setup: Setup) -> dict[str, Value]:
    """Adapters of all those on disk, other ones in each round, over 8 that are resident."""
    many = setup.scale.workload(requests=setup.scale.over_disk_requests)
    found = await take_turns(
        [
            speed_of("8 adapters", setup.loaded, many, setup.adapters[:8], at_once=setup.scale.requests),
            speed_of(
                "all on disk, Zipf",
                setup.loaded,
                many,
                # Drawn anew: those of the round before are resident, or in the host cache.
                lambda number: zipf(setup.adapters, many.requests, seed=number),
                at_once=setup.scale.requests,
            ),
        ],
        setup.rounds,
    )
    return {f"zipf{len(setup.adapters)}_vs_lora8": ratio(found, "all on disk, Zipf", "8 adapters")}
