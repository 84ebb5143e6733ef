"""Things that are fetched once, by whoever asks first, and kept for the next."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from services.common import logs

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_log = logs.get_logger(__name__)


class FetchCache(Generic[Key, Value]):
    """The last `size` things asked for, by key. One fetch serves all who wait for it; a failed one is not kept."""

    def __init__(self, fetch: Callable[[Key], Awaitable[Value]], *, size: int, at_once: int) -> None:
        """`fetch` may raise; `at_once` bounds how many fetches run together."""
        self._fetch = fetch
        self._size = size
        self._places = asyncio.Semaphore(at_once)
        self._tasks: OrderedDict[Key, asyncio.Task[Value]] = OrderedDict()

    async def get(self, key: Key) -> Value:
        """The thing, once it is here. Raises what its fetch raises."""
        return await asyncio.shield(self._task(key))

    def prefetch(self, key: Key) -> None:
        """Have it here before somebody needs it, or its source is away; not at the cost of what others have used."""
        if key in self._tasks or len(self._tasks) < self._size:
            self._task(key)

    def drop(self, key: Key) -> None:
        """Keep it no longer; who waits for it gets it."""
        self._tasks.pop(key, None)

    async def stop(self) -> None:
        """End what is being fetched."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _task(self, key: Key) -> "asyncio.Task[Value]":
        task = self._tasks.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.create_task(self._fetched(key))
            # Nobody may be waiting for it, and its error is then told to the log alone.
            task.add_done_callback(_report)
            self._tasks[key] = task
        self._tasks.move_to_end(key)
        while len(self._tasks) > self._size:
            self._tasks.popitem(last=False)
        return task

    async def _fetched(self, key: Key) -> Value:
        async with self._places:
            return await self._fetch(key)


def _report(task: "asyncio.Task[Value]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("not_fetched", error=str(error))
