"""What every candidate runs: prompts of random tokens, a fixed number of new tokens, all at once."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

import torch

from services.worker.engine.interface import AdapterFiles, EngineRequest, Sampling
from services.worker.engine.local.local_engine import LocalEngine


@dataclass(frozen=True)
class Workload:
    """Requests that come at once."""

    requests: int = 32
    prompt: int = 64
    new: int = 128
    temperature: float = 0.0
    top_p: float = 1.0

    def prompts(self) -> list[list[int]]:
        """[requests][prompt] token ids, the same each time."""
        generator = torch.Generator().manual_seed(7)
        return torch.randint(100, 40_000, (self.requests, self.prompt), generator=generator).tolist()


async def tokens_per_second(
    engine: LocalEngine, workload: Workload, adapters: Sequence[AdapterFiles | None], *, at_once: int = 0
) -> float:
    """New tokens a second over all requests; request i uses adapter i modulo their number.

    `at_once` limits how many run together; 0 starts all.
    """
    places = asyncio.Semaphore(at_once or workload.requests)

    async def run(number: int, prompt: list[int]) -> int:
        files = adapters[number % len(adapters)]
        async with places, AsyncExitStack() as stack:
            if files is not None:
                await stack.enter_async_context(engine.adapter(files))
            request = EngineRequest(
                str(number),
                "bench",
                prompt,
                Sampling(
                    max_tokens=workload.new,
                    temperature=workload.temperature,
                    top_p=workload.top_p,
                    seed=number,
                    ignore_eos=True,
                ),
                None if files is None else files.digest,
            )
            outputs = await stack.enter_async_context(aclosing(engine.generate(request)))
            return sum([len(output.token_ids) async for output in outputs])

    started = time.perf_counter()
    counts = await asyncio.gather(*(run(number, prompt) for number, prompt in enumerate(workload.prompts())))
    return sum(counts) / (time.perf_counter() - started)


async def first_token_seconds(engine: LocalEngine, prompt: list[int], files: AdapterFiles) -> float:
    """From asking for an adapter to its first token."""
    started = time.perf_counter()
    async with engine.adapter(files):
        request = EngineRequest(
            "first", "bench", prompt, Sampling(max_tokens=1, temperature=0.0), files.digest
        )
        async with aclosing(engine.generate(request)) as outputs:
            await anext(outputs)
            return time.perf_counter() - started
