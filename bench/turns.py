"""Candidates take turns, so that what a round compares is near in time: a shared machine drifts within minutes."""

import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

Measure = Callable[[int], Awaitable[float]]
"""Takes the number of the round, and gives a figure."""


@dataclass(frozen=True)
class Candidate:
    """A name, and how to measure it once."""

    name: str
    measure: Measure
    unit: str = "tokens/s"


async def take_turns(candidates: Sequence[Candidate], rounds: int) -> dict[str, list[float]]:
    """Figures by name, one a round. Each round begins with another candidate; round 0 warms all up and is dropped.

    Few candidates, so that those whose ratio is taken stand side by side.
    """
    measured: dict[str, list[float]] = {one.name: [] for one in candidates}
    for number in range(rounds + 1):
        for one in itertools.islice(itertools.cycle(candidates), number, number + len(candidates)):
            figure = await one.measure(number)
            print(f"  round {number}/{rounds}  {one.name:32} {figure:9.1f} {one.unit}", flush=True)
            if number:
                measured[one.name].append(figure)
    return measured
