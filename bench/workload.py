"""What every candidate runs: prompts of random tokens, a fixed number of new tokens, and when each of those came."""

import asyncio
import functools
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field

from services.worker.engine.interface import AdapterFiles, EngineRequest, Sampling
from services.worker.engine.local.local_engine import LocalEngine

BASE_ONLY: tuple[None] = (None,)


@dataclass(frozen=True)
class Workload:
    """Requests that come at once."""

    requests: int = 32
    prompt: int = 64
    new: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    highest_token: int = 40_000

    def prompts(self) -> list[list[int]]:
        """[requests][prompt] token ids, the same each time; fewer or shorter ones are the beginnings of these."""
        return _prompts(self.requests, self.prompt, self.highest_token)

    def sampling(self, seed: int) -> Sampling:
        """Past the end of text, so that all are of one length."""
        return Sampling(
            max_tokens=self.new, temperature=self.temperature, top_p=self.top_p, seed=seed, ignore_eos=True
        )


@functools.lru_cache(maxsize=32)  # so that making them is in nobody's time
def _prompts(requests: int, length: int, highest: int) -> list[list[int]]:
    dice = [random.Random(number) for number in range(requests)]  # noqa: S311 - a workload
    return [[one.randrange(100, highest) for _ in range(length)] for one in dice]


@dataclass
class Answer:
    """What came, and when by time.perf_counter."""

    token_ids: list[int] = field(default_factory=list)
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    """Moment and number of tokens of each output."""


async def ask(
    engine: LocalEngine,
    prompt: Sequence[int],
    sampling: Sampling,
    files: AdapterFiles | None,
    *,
    account: str = "bench",
) -> Answer:
    """One request to its end, the adapter's loading included."""
    answer = Answer()
    async with AsyncExitStack() as stack:
        if files is not None:
            await stack.enter_async_context(engine.adapter(files))
        request = EngineRequest("bench", account, prompt, sampling, None if files is None else files.digest)
        async for output in await stack.enter_async_context(aclosing(engine.generate(request))):
            answer.arrivals.append((time.perf_counter(), len(output.token_ids)))
            answer.token_ids += output.token_ids
    return answer


async def ask_all(
    engine: LocalEngine, workload: Workload, adapters: Sequence[AdapterFiles | None], *, at_once: int = 0
) -> list[Answer]:
    """All of a workload; request i uses adapter i modulo their number. `at_once` limits how many run together; 0 starts all."""
    places = asyncio.Semaphore(at_once or workload.requests)

    async def run(number: int, prompt: list[int]) -> Answer:
        async with places:
            return await ask(engine, prompt, workload.sampling(number), adapters[number % len(adapters)])

    return await asyncio.gather(*(run(number, prompt) for number, prompt in enumerate(workload.prompts())))


async def tokens_per_second(
    engine: LocalEngine, workload: Workload, adapters: Sequence[AdapterFiles | None], *, at_once: int = 0
) -> float:
    """New tokens a second over all requests, from their coming to the last token."""
    started = time.perf_counter()
    answers = await ask_all(engine, workload, adapters, at_once=at_once)
    return sum(len(one.token_ids) for one in answers) / (time.perf_counter() - started)


def decode_speed(answers: Sequence[Answer]) -> float:
    """New tokens a second while all sequences decode: after the last one's first token, until one has its last."""
    begin = max(one.arrivals[0][0] for one in answers)
    end = min(one.arrivals[-1][0] for one in answers)
    if end <= begin:
        raise ValueError("no time in which all sequences decode: more new tokens are needed")
    counted = sum(count for one in answers for moment, count in one.arrivals if begin < moment <= end)
    return counted / (end - begin)
