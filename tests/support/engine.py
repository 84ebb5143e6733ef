"""Running the torch engine, whole or just its steps, in tests."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from services.worker.engine.interface import (
    AdapterFiles,
    EngineRequest,
    Finish,
    Sampling,
    TokenLogprob,
)
from services.worker.engine.local.adapters.loaded_adapter import LoadedAdapter
from services.worker.engine.local.adapters.loader import AdapterLoader
from services.worker.engine.local.engine_config import EngineConfig
from services.worker.engine.local.local_engine import LocalEngine
from services.worker.engine.local.model.base_weights import load_base_model
from services.worker.engine.local.model.probe import probe_model
from services.worker.engine.local.output_streams import OutputStream
from services.worker.engine.local.runner import make_runner
from services.worker.engine.local.schedule.block_pool import BlockPool
from services.worker.engine.local.schedule.scheduler import Scheduler
from services.worker.engine.local.schedule.sequence import Sequence as EngineSequence

# pytest-xdist has a process for each core; threads of several would wait for one another at every barrier.
torch.set_num_threads(1)


@asynccontextmanager
async def running_engine(
    base: Path,
    **options: Any,  # EngineConfig's fields
) -> AsyncIterator[LocalEngine]:
    """An engine in float32 on one thread, stopped at the end."""
    small = {"dtype": "float32", "threads": 1, "kv_tokens": 4096, **options}
    engine = await LocalEngine.start(EngineConfig(base, **small))
    try:
        yield engine
    finally:
        await engine.stop()


def free_blocks(engine: LocalEngine) -> tuple[int, int]:
    """Blocks that are free, and blocks that there are."""
    pool = engine._loop._scheduler.pool
    return pool.free, pool.total


@dataclass(frozen=True)
class Answer:
    """All that a sequence gave."""

    token_ids: list[int]
    logprobs: list[TokenLogprob]
    finish: Finish
    cached_tokens: int


def make_request(
    prompt: Sequence[int],
    *,
    adapter: str | None = None,
    produced: Sequence[int] = (),
    **sampling: Any,  # Sampling's fields
) -> EngineRequest:
    """Greedy, 20 tokens, past the end of text, unless told otherwise."""
    options = {"max_tokens": 20, "temperature": 0.0, "ignore_eos": True, **sampling}
    return EngineRequest("request", "account", prompt, Sampling(**options), adapter, produced=produced)


async def answer(
    engine: LocalEngine,
    prompt: Sequence[int],
    *,
    adapter: str | None = None,
    produced: Sequence[int] = (),
    **sampling: Any,
) -> Answer:
    """Run one sequence to its end."""
    token_ids: list[int] = []
    logprobs: list[TokenLogprob] = []
    finish, cached = None, 0
    request = make_request(prompt, adapter=adapter, produced=produced, **sampling)
    async with aclosing(engine.generate(request)) as outputs:
        async for output in outputs:
            assert finish is None
            token_ids.extend(output.token_ids)
            logprobs.extend(output.logprobs)
            finish, cached = output.finish, max(cached, output.cached_tokens)
    assert finish is not None
    return Answer(token_ids, logprobs, finish, cached)


def files_of(folder: Path) -> AdapterFiles:
    """The adapter in `folder`, named by the folder for want of a digest."""
    return AdapterFiles(folder.name, folder)


class Stepper:
    """The engine's steps without its thread: feeds given tokens and keeps the logits of each position."""

    def __init__(
        self,
        base: Path,
        *,
        prefill_tokens: int = 512,
        blocks: int = 256,
        use_kernels: bool = True,
        dtype: Literal["float32", "bfloat16"] = "float32",
        threads: int = 1,
    ) -> None:
        self._base = load_base_model(base, "cpu", dtype)
        probe = probe_model(self._base.model)
        self._pool = BlockPool(blocks, 16, prefix_cache=False)
        self._scheduler = Scheduler[LoadedAdapter](
            self._pool, max_sequences=64, prefill_tokens=prefill_tokens
        )
        self._runner = make_runner(
            self._base, probe, blocks=blocks, block_size=16, use_kernels=use_kernels, threads=threads
        )
        self.loader = AdapterLoader(
            probe, self._runner, self._base.dtype, self._base.device, self._runner.prepare
        )

    def logits(
        self, sequences: Sequence[tuple[Sequence[int], LoadedAdapter | None]], *, prompt_length: int
    ) -> list[Tensor]:
        """Run all sequences in one batch, each given its own tokens one by one after the first `prompt_length`.

        Returns for each the logits [tokens - prompt_length + 1, vocabulary], from the prompt's last position on.
        """
        running = {}
        for place, (tokens, adapter) in enumerate(sequences):
            sequence = EngineSequence(
                make_request(tokens[:prompt_length]), adapter, frozenset(), OutputStream()
            )
            self._scheduler.add(sequence)
            running[sequence] = place
        rows: list[list[Tensor]] = [[] for _ in sequences]
        while self._scheduler.has_work:
            chunks = self._scheduler.schedule()
            logits = iter(self._runner.run(chunks))
            for chunk in chunks:
                self._scheduler.computed(chunk)
                if not chunk.samples:
                    continue
                place = running[chunk.sequence]
                rows[place].append(next(logits))
                tokens = sequences[place][0]
                if chunk.end == len(tokens):
                    self._scheduler.remove(chunk.sequence)
                else:
                    chunk.sequence.tokens.append(tokens[chunk.end])
        assert self._pool.free == self._pool.total
        return [torch.stack(one) for one in rows]


async def answers(engine: LocalEngine, prompts: Sequence[Sequence[int]], **sampling: Any) -> list[list[int]]:
    done = await asyncio.gather(*(answer(engine, prompt, **sampling) for prompt in prompts))
    return [one.token_ids for one in done]


async def assert_all_is_free(engine: LocalEngine) -> None:
    # What came before in the inbox is done by the time a later sequence ends.
    await answer(engine, [5], max_tokens=1)
    free, total = free_blocks(engine)
    assert free == total
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)
