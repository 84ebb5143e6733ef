"""Requests that come when they come, and not when others end: what a caller waits for its first token and each one after.

Arrivals are a Poisson process at a part of what the engine does when it is always given more (the closed loop, in the
same round). Prompts and answers are of mixed length, of nine models and four accounts.
"""

import asyncio
import itertools
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.results.ratios import estimate
from bench.results.report import Value
from bench.rows.setup import Setup
from bench.scale import Scale
from bench.workload import Answer, Workload, ask
from services.worker.engine.interface import AdapterFiles
from services.worker.engine.local.local_engine import LocalEngine

LOAD = 0.6
"""Of the closed loop's requests a second."""
_ACCOUNTS = 4


@dataclass(frozen=True)
class MixedRequest:
    """One of many shapes."""

    prompt: Sequence[int]
    new: int
    files: AdapterFiles | None
    account: str


@dataclass
class Waits:
    """Seconds, over all requests of all rounds."""

    first: list[float] = field(default_factory=list)
    """From when a request was to come, whether or not the client was late with it."""
    between: list[float] = field(default_factory=list)


def mixed_requests(
    scale: Scale, adapters: Sequence[AdapterFiles], count: int, seed: int
) -> list[MixedRequest]:
    """Lengths are as likely short as long, by their logarithm; the base is as likely as each adapter."""
    dice = random.Random(seed)  # noqa: S311 - a workload
    return [
        MixedRequest(
            [
                dice.randrange(100, scale.highest_token)
                for _ in range(_log_uniform(dice, *scale.mixed_prompt))
            ],
            _log_uniform(dice, *scale.mixed_new),
            dice.choice((None, *adapters)),
            f"account-{dice.randrange(_ACCOUNTS)}",
        )
        for _ in range(count)
    ]


def poisson_arrivals(rate: float, count: int, seed: int) -> list[float]:
    """Seconds from the beginning at which requests come, `rate` a second on average."""
    dice, moment, moments = random.Random(seed), 0.0, []  # noqa: S311 - a workload
    for _ in range(count):
        moment += dice.expovariate(rate)
        moments.append(moment)
    return moments


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that `share` of at least one value do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


async def open_loop(setup: Setup) -> dict[str, Value]:
    """Median and 99th percentile of both waits, over the requests of all rounds."""
    scale, waits, rates = setup.scale, Waits(), []
    for number in range(setup.rounds + 1):
        requests = mixed_requests(scale, setup.adapters[:8], scale.arrivals, number)
        capacity = await _closed_loop(setup.loaded, requests, scale.requests)
        found = await _arriving(
            setup.loaded, requests, poisson_arrivals(LOAD * capacity, len(requests), number)
        )
        print(
            f"  round {number}/{setup.rounds}  {len(requests)} requests at {LOAD * capacity:.2f} of {capacity:.2f} a second: "
            f"first token {1e3 * percentile(found.first, 0.5):.0f} ms, next {1e3 * percentile(found.between, 0.5):.0f} ms",
            flush=True,
        )
        if number:  # the first warms up
            waits.first += found.first
            waits.between += found.between
            rates.append(LOAD * capacity)
    return {
        "open_loop_requests_s": estimate(rates),
        "open_loop_first_token_ms": _percentiles(waits.first),
        "open_loop_inter_token_ms": _percentiles(waits.between),
    }


async def _closed_loop(engine: LocalEngine, requests: Sequence[MixedRequest], at_once: int) -> float:
    """Requests a second where another comes as soon as one ends."""
    places = asyncio.Semaphore(at_once)

    async def run(request: MixedRequest) -> None:
        async with places:
            await _ask(engine, request)

    started = time.perf_counter()
    await asyncio.gather(*map(run, requests))
    return len(requests) / (time.perf_counter() - started)


async def _arriving(engine: LocalEngine, requests: Sequence[MixedRequest], moments: Sequence[float]) -> Waits:
    """Each request at its moment, whatever has become of those before."""
    waits, started = Waits(), time.perf_counter()

    async def run(request: MixedRequest, moment: float) -> None:
        due = started + moment
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        arrivals = [at for at, _ in (await _ask(engine, request)).arrivals]
        waits.first.append(arrivals[0] - due)
        waits.between += [later - earlier for earlier, later in itertools.pairwise(arrivals)]

    await asyncio.gather(*map(run, requests, moments))
    return waits


async def _ask(engine: LocalEngine, request: MixedRequest) -> Answer:
    sampling = Workload(new=request.new).sampling(0)
    return await ask(engine, request.prompt, sampling, request.files, account=request.account)


def _log_uniform(dice: random.Random, least: int, most: int) -> int:
    return round(math.exp(dice.uniform(math.log(least), math.log(most))))


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{round(100 * share)}": 1e3 * percentile(seconds, share) for share in (0.5, 0.99)}
