"""Accounts of unequal appetite, all of which always want more: is each given its share? A part of `make soak`.

Service is what the engine's scheduler charges (virtual token counters, `schedule/fair_queue.py`): a prompt token counts
once, one of output twice. A client sees it when tokens come, so a prompt counts when its first token is there.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from bench.jain import jain_index
from services.worker.engine.interface import EngineRequest, Sampling
from services.worker.engine.local.local_engine import LocalEngine
from services.worker.engine.local.schedule.fair_queue import OUTPUT_WEIGHT

JAIN = 0.95
"""The least index of any window."""
WINDOWS = 5
WINDOW_SERVICE = 12_000.0
"""Of all accounts together. Many times the longest request, which a window may count or not."""


@dataclass(frozen=True)
class Account:
    """What it keeps asking for."""

    name: str
    requests: int
    """Of which it always has this many; more than can run at once, so that some wait whatever happens to the others."""
    prompt: tuple[int, int]
    new: tuple[int, int]
    weight: float = 1.0


def accounts(max_sequences: int) -> tuple[Account, ...]:
    """One hungry, two modest, one of double weight, on an engine that runs so many at once."""
    few = max_sequences + 1
    return (
        Account("hungry", 4 * few, (200, 600), (50, 150)),
        Account("modest", few, (20, 200), (10, 60)),
        Account("brief", few, (10, 60), (5, 20)),
        Account("double", few, (20, 200), (10, 60), weight=2.0),
    )


@dataclass
class Service:
    """What each account has had, cut into windows of equal service."""

    weights: dict[str, float]
    window: float = WINDOW_SERVICE
    indices: list[float] = field(default_factory=list)
    """Jain's index of each window that is whole, of service over weight."""
    totals: Counter[str] = field(default_factory=Counter)
    _now: dict[str, float] = field(default_factory=dict)

    def count(self, account: str, prompt_tokens: int, output_tokens: int) -> None:
        """Note what has come; `prompt_tokens` are those that were computed and not found in a cache."""
        cost = prompt_tokens + OUTPUT_WEIGHT * output_tokens
        self.totals[account] += round(cost)
        self._now[account] = self._now.get(account, 0.0) + cost
        if sum(self._now.values()) >= self.window:
            shares = [self._now.get(name, 0.0) / weight for name, weight in self.weights.items()]
            self.indices.append(jain_index(shares))
            self._now.clear()
            print(f"  {sum(self.totals.values()):8} served, Jain's index {self.indices[-1]:.3f}", flush=True)


async def unequal_appetites(
    engine: LocalEngine,
    guests: Sequence[Account],
    *,
    windows: int = WINDOWS,
    window: float = WINDOW_SERVICE,
    highest_token: int = 40_000,
) -> Service:
    """Keep all accounts waiting until so many windows are whole, and end what runs then.

    The first window is left out: it begins with nothing running.
    """
    service = Service({one.name: one.weight for one in guests}, window)
    dice = random.Random(5)  # noqa: S311 - a workload
    done = asyncio.Event()

    async def ask_for_ever(account: Account) -> None:
        while True:
            prompt = [dice.randrange(100, highest_token) for _ in range(dice.randint(*account.prompt))]
            sampling = Sampling(max_tokens=dice.randint(*account.new), temperature=0.0, ignore_eos=True)
            request = EngineRequest("soak", account.name, prompt, sampling, account_weight=account.weight)
            first = True
            async with aclosing(engine.generate(request)) as outputs:
                async for output in outputs:
                    computed = len(prompt) - output.cached_tokens if first else 0
                    service.count(account.name, computed, len(output.token_ids))
                    first = False
                    if len(service.indices) > windows:
                        done.set()

    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(ask_for_ever(one)) for one in guests for _ in range(one.requests)]
        await done.wait()
        for client in clients:
            client.cancel()
    del service.indices[0]
    return service


def unfairness(service: Service) -> list[str]:
    """What is wrong with how it was shared out; prints it."""
    print(
        "service over weight, with unequal appetites: "
        + ", ".join(f"{name} {service.totals[name] / weight:.0f}" for name, weight in service.weights.items())
    )
    print("Jain's index by window: " + ", ".join(f"{index:.3f}" for index in service.indices))
    least = min(service.indices)
    return [] if least >= JAIN else [f"Jain's index fell to {least:.3f}; at least {JAIN} is fair"]
