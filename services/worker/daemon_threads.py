"""Blocking work in threads that do not hold up the end of the process."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_Result = TypeVar("_Result")


async def in_daemon_thread(work: Callable[[], _Result]) -> _Result:
    """Run `work` in a thread of its own; return its result or raise its exception.

    Like asyncio.to_thread, but for what may hang, such as a download: the process does not wait for it when it
    ends. A caller that is cancelled leaves the thread to itself.
    """
    future: Future[_Result] = Future()
    # From here on a cancelled caller cannot take the future away from the thread.
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="blocking-work", daemon=True).start()
    return await asyncio.wrap_future(future)
