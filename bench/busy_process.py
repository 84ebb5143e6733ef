"""A neighbour that takes a core: a process that counts, at a priority of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

# Ends by itself where its parent has been killed.
_COUNT = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""


class BusyProcess:
    """Stopped, but for the time of `busy`; ended with the context."""

    def __init__(self, nice: int) -> None:
        """`nice`: 0 is as important as this process is by default, 19 the least."""
        # Of this session: with the kernel's autogroups, priorities hold only among processes of one.
        self._process = subprocess.Popen([sys.executable, "-c", _COUNT, str(os.getpid())])  # noqa: S603 - ours
        os.setpriority(os.PRIO_PROCESS, self._process.pid, nice)
        self._process.send_signal(signal.SIGSTOP)

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """It counts while the context lasts."""
        self._process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)
