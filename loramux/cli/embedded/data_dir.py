"""The folder that the embedded services keep everything in, used by one `loramux up` at a time."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

# Longer than services take to notice that the process which started them is gone, and to drain.
_PATIENCE_SECONDS = 20.0
_POLL_SECONDS = 0.1


class DataDirInUseError(Exception):
    """Other services run in the folder."""


class DataDirLock:
    """Held by `loramux up` and by every service it starts, so for as long as any of them lives."""

    def __init__(self, data_dir: Path) -> None:
        self._place = data_dir / "lock"
        self._descriptor: int | None = None

    def take(self, waiting: Callable[[], None]) -> int:
        """Returns the file descriptor to hand to services. Raises DataDirInUseError.

        Services whose starter was killed end by themselves; `waiting` is called before they are waited for.
        """
        descriptor = os.open(self._place, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        told = False
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            holder = int(self._place.read_text() or 0)
            if _is_alive(holder) or time.monotonic() > deadline:
                os.close(descriptor)
                raise DataDirInUseError(
                    f"{self._place.parent} is in use by another `loramux up` (process {holder})"
                )
            if not told:
                waiting()
                told = True
            time.sleep(_POLL_SECONDS)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._descriptor = descriptor
        return descriptor

    def release(self) -> None:
        """Let go; the services must have ended."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _is_alive(process: int) -> bool:
    if process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
