"""Cancellation: work that must be done to its end in spite of it, and whom it was meant for."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


# Any: what the coroutine yields and is sent is asyncio's own business.
async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await `work` until it is done, however often the awaiting task is cancelled meanwhile.

    A cancellation is raised after the work is done; its result is then lost, so work that takes something
    must record what it took where the caller can give it back.
    """
    task = asyncio.create_task(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is not None:
        raise cancellation from (None if task.cancelled() else task.exception())
    return task.result()


def task_is_cancelled() -> bool:
    """Whether a CancelledError was meant for the current task; else something it awaited was cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
