"""What the rows of `make bench` share: two engines of the same settings, one of them with adapters."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.adapters import make_adapters
from bench.scale import Scale
from bench.turns import Candidate
from bench.workload import BASE_ONLY, Workload, tokens_per_second
from services.worker.engine.interface import AdapterFiles
from services.worker.engine.local.engine_config import EngineConfig
from services.worker.engine.local.local_engine import LocalEngine


@dataclass(frozen=True)
class Setup:
    """Engines that are warm, and adapters on disk."""

    scale: Scale
    rounds: int
    config: EngineConfig
    bases: Path
    """Where those lie that a row makes for itself."""
    bare: LocalEngine
    loaded: LocalEngine
    """Runs with adapters; as `bare` in all else."""
    adapters: Sequence[AdapterFiles]
    """`scale.on_disk` of them."""
    cold: Sequence[AdapterFiles]
    """Others, that only the rows of cold adapters ask for."""

    @asynccontextmanager
    async def another(self, **changes: object) -> AsyncIterator[LocalEngine]:
        """One more engine, but for the changes to its config."""
        engine = await warm_engine(replace(self.config, **changes), self.scale)  # type: ignore[arg-type]  # by name
        try:
            yield engine
        finally:
            await engine.stop()


@asynccontextmanager
async def set_up(scale: Scale, rounds: int, folder: Path) -> AsyncIterator[Setup]:
    """Adapters under `folder`, and the engines while the context lasts."""
    found = make_adapters(folder, scale.on_disk + scale.cold, base=scale.base)
    config = EngineConfig(
        scale.base,
        dtype="bfloat16",
        # Full before cold adapters come, as in a worker that has run for a while.
        adapter_slots=scale.slots,
        # Every round has the same prompts.
        prefix_cache=False,
    )
    loaded, bare = await warm_engine(config, scale), await warm_engine(config, scale)
    try:
        yield Setup(
            scale, rounds, config, folder.parent / "bases", bare, loaded,
            found[: scale.on_disk], found[scale.on_disk :],
        )  # fmt: skip
    finally:
        await loaded.stop()
        await bare.stop()


async def warm_engine(config: EngineConfig, scale: Scale) -> LocalEngine:
    """An engine that has run once."""
    engine = await LocalEngine.start(config)
    await tokens_per_second(engine, scale.workload(requests=4, new=4), BASE_ONLY)
    return engine


def speed_of(
    name: str,
    engine: LocalEngine,
    workload: Workload,
    adapters: Sequence[AdapterFiles | None] | Callable[[int], Sequence[AdapterFiles | None]] = BASE_ONLY,
    *,
    at_once: int = 0,
) -> Candidate:
    """A candidate whose figure is its tokens a second; `adapters` may be others in each round."""

    async def measure(number: int) -> float:
        chosen = adapters(number) if callable(adapters) else adapters
        return await tokens_per_second(engine, workload, chosen, at_once=at_once)

    return Candidate(name, measure)
