"""Ten minutes of random traffic: `make soak`. Ends with flat memory, all blocks and slots free, and no error, or says what not.

64 adapters over 16 slots, prompts of 1 to 2,000 tokens, a fifth of the requests cancelled at some point, every kind of
sampling, prefixes that meet. After it, accounts of unequal appetite share what there is: see `appetites`.
"""

import argparse
import asyncio
import random
import sys
import time
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field

from bench.adapters import make_adapters
from bench.appetites import accounts, unequal_appetites, unfairness
from bench.memory import resident_bytes
from loramux.profile import home
from services.worker.engine.interface import AdapterFiles, EngineRequest, Sampling
from services.worker.engine.local.engine_config import EngineConfig
from services.worker.engine.local.local_engine import LocalEngine
from tests.support.paths import BASE

ADAPTERS = 64
SLOTS = 16
AT_ONCE = 24
MAX_SEQUENCES = 16
LONGEST = 2000
FLAT = 1.05
"""Memory may be this much of what it was at half time: allocators keep some."""


@dataclass
class Tally:
    """What happened."""

    ended: int = 0
    cancelled: int = 0
    tokens: int = 0
    cached: int = 0
    errors: list[str] = field(default_factory=list)


def random_sampling(dice: random.Random) -> Sampling:
    """Greedy a third of the time, else with whatever else there is."""
    if dice.random() < 1 / 3:
        return Sampling(max_tokens=dice.randint(1, 200), temperature=0.0)
    return Sampling(
        max_tokens=dice.randint(1, 200),
        temperature=dice.uniform(0.1, 2.0),
        top_k=dice.choice((0, 0, 1, 50)),
        top_p=dice.choice((1.0, 1.0, 0.9)),
        min_p=dice.choice((0.0, 0.0, 0.05)),
        repetition_penalty=dice.choice((1.0, 1.1)),
        presence_penalty=dice.choice((0.0, 0.5)),
        seed=dice.getrandbits(64),
        logprobs=dice.choice((None, None, 3)),
        ignore_eos=dice.random() < 0.5,
    )


async def one_request(
    engine: LocalEngine, adapters: list[AdapterFiles], dice: random.Random, tally: Tally
) -> None:
    """A request of random shape, cancelled at a random moment or read to its end."""
    files = dice.choice([None, *adapters])
    # A fifth begin alike, so that blocks are shared while others come and go.
    length = dice.randint(1, LONGEST) if dice.random() < 0.2 else dice.randint(1, 200)
    begin = [7] * dice.choice((0, 0, 0, 64))
    prompt = (begin + [dice.randint(100, 40_000) for _ in range(length)])[:LONGEST]
    patience = dice.uniform(0, 5) if dice.random() < 0.2 else None
    request = EngineRequest(
        "soak", dice.choice("ab"), prompt, random_sampling(dice), None if files is None else files.digest
    )
    try:
        async with asyncio.timeout(patience), AsyncExitStack() as stack:
            if files is not None:
                await stack.enter_async_context(engine.adapter(files))
            async for output in await stack.enter_async_context(aclosing(engine.generate(request))):
                tally.tokens += len(output.token_ids)
                tally.cached += output.cached_tokens
        tally.ended += 1
    except TimeoutError:
        tally.cancelled += 1
    except Exception as error:
        tally.errors.append(repr(error))


async def soak(seconds: float) -> list[str]:
    """Run the traffic; returns what is wrong at the end."""
    adapters = make_adapters(home() / "bench" / "adapters", ADAPTERS)
    engine = await LocalEngine.start(
        EngineConfig(
            BASE,
            dtype="bfloat16",
            adapter_slots=SLOTS,
            max_sequences=MAX_SEQUENCES,
            kv_tokens=5_120,
        )
    )
    tally, dice = Tally(), random.Random(3)  # noqa: S311 - a workload
    started = time.monotonic()
    memory: list[int] = []

    async def client() -> None:
        while time.monotonic() - started < seconds:
            await one_request(engine, adapters, dice, tally)

    async def watch() -> None:
        while True:
            await asyncio.sleep(seconds / 20)
            memory.append(resident_bytes())
            stats = engine.stats()
            print(
                f"  {time.monotonic() - started:5.0f} s  {memory[-1] / 2**20:7.0f} MiB  ended {tally.ended}, "
                f"cancelled {tally.cancelled}, tokens {tally.tokens}, cached {tally.cached}, "
                f"loads {stats.adapter_loads_total}, preempted {stats.preemptions_total}, errors {len(tally.errors)}",
                flush=True,
            )

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    watcher.cancel()
    unfair = unfairness(await unequal_appetites(engine, accounts(MAX_SEQUENCES)))
    # What was cancelled before has left by the time a later sequence ends.
    await one_request(engine, [], random.Random(0), tally)  # noqa: S311 - a workload
    stats = engine.stats()
    await engine.stop()
    wrong = [*tally.errors, *unfair]
    if stats.kv_blocks_held or stats.running or stats.waiting:
        wrong.append(f"{stats.kv_blocks_held} blocks held, {stats.running} running, {stats.waiting} waiting")
    if any(stats.adapters.values()):
        wrong.append(f"adapters are pinned: {stats.adapters}")
    half = memory[len(memory) // 2]
    growth = memory[-1] / half
    print(f"memory at the end over that at half time: {growth:.3f}")
    if growth > FLAT:
        wrong.append(f"memory grew by {growth - 1:.1%} in the second half")
    if not tally.ended or not tally.cancelled or not stats.preemptions_total:
        wrong.append("the traffic never ended, cancelled or preempted anything")
    return wrong


def main() -> None:
    """Exit with 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    wrong = asyncio.run(soak(parser.parse_args().seconds))
    print("\n".join(wrong) or "nothing is wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
