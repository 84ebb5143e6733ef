"""The way from the engine's thread to a consumer on the event loop, without a timer or a bounded queue."""

import asyncio
from collections.abc import Callable, Sequence

from services.worker.engine.interface import EngineOutput


class OutputStream:
    """One sequence's outputs. Lives on the event loop; outputs that nobody has taken yet are joined."""

    def __init__(self) -> None:
        self._pending: EngineOutput | None = None
        self._error: Exception | None = None
        self._arrived = asyncio.Event()

    def put(self, item: EngineOutput | Exception) -> None:
        if isinstance(item, Exception):
            self._error = item
        else:
            self._pending = item if self._pending is None else _join(self._pending, item)
        self._arrived.set()

    async def take(self) -> EngineOutput:
        """What has come since the last call; waits when nothing has. Raises what ended the sequence instead."""
        await self._arrived.wait()
        if self._pending is not None:
            output, self._pending = self._pending, None
            if self._error is None:
                self._arrived.clear()
            return output
        assert self._error is not None
        raise self._error


class Outbox:
    """What one step has for its streams; the engine's thread sends it over in one call."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: list[tuple[OutputStream, EngineOutput | Exception]] = []
        self._calls: list[Callable[[], None]] = []

    def call(self, what: Callable[[], None]) -> None:
        """Have something called there, after what was posted before."""
        self._calls.append(what)

    def post(self, stream: OutputStream, item: EngineOutput | Exception) -> None:
        self._items.append((stream, item))

    def send(self) -> None:
        """Hand everything over. On a loop that is closed nobody waits any more."""
        if (self._items or self._calls) and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_deliver, self._items, self._calls)
        self._items, self._calls = [], []


def _deliver(
    items: Sequence[tuple[OutputStream, EngineOutput | Exception]], calls: Sequence[Callable[[], None]]
) -> None:
    for stream, item in items:
        stream.put(item)
    for call in calls:
        call()


def _join(first: EngineOutput, second: EngineOutput) -> EngineOutput:
    return EngineOutput(
        token_ids=first.token_ids + second.token_ids,
        logprobs=first.logprobs + second.logprobs,
        cached_tokens=first.cached_tokens,
        finish=second.finish,
    )
