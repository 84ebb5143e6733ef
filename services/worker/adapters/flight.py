"""One fetch of an adapter, and how it is given up."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class Stop:
    """Tells a download's thread that it was given up; once it is set, nothing more is put in place."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        with self._lock:
            self._is_set = True

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Whether it is set, which does not change while the context lasts."""
        with self._lock:
            yield self._is_set


@dataclass
class Flight:
    """One fetch that any number of requests wait for."""

    task: "asyncio.Task[None]"
    stop: Stop
    waiting: int = 0
