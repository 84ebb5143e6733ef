"""One service as a child process: started, watched, started again when it dies, stopped however it behaves."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

_POLL_SECONDS = 0.05
_FIRST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 30.0
# A service that lived this long did not die of how it was started.
_SETTLED_SECONDS = 60.0
_TAIL_LINES = 12
_TAIL_BYTES = 16_384


@dataclass(frozen=True)
class Event:
    """Something that whoever started the services may want to tell its user."""

    kind: Literal["progress", "starting", "ready", "died", "failed", "stopping", "stopped", "killed"]
    service: str
    detail: str = ""
    """For people: an address, an exit status, the end of a log."""


OnEvent = Callable[[Event], None]


class EmbeddedError(Exception):
    """A service could not be started; the message says which, why, and shows the end of its log."""


class StoppedError(EmbeddedError):
    """`stop` was called while services were being started."""


@dataclass(frozen=True)
class Places:
    """A service's own files."""

    log: Path
    address_file: Path
    folder: Path
    """That it runs in; nothing of ours lies there to be imported."""


class ServiceProcess:
    """A service under supervision. `spawn`, then `wait_until_ready`, then `supervise`; `stop` at any time."""

    def __init__(
        self,
        name: str,
        module: str,
        environment: Mapping[str, str],
        places: Places,
        *,
        on_event: OnEvent,
        port_variable: str | None = None,
        inherited: Sequence[int] = (),
    ) -> None:
        """`port_variable` is set at later starts, so that the service keeps the port of its first.

        `inherited` are file descriptors that stay open in the process.
        """
        self.name = name
        self.address = ""
        self._module = module
        self._environment = dict(environment)
        self._places = places
        self._on_event = on_event
        self._port_variable = port_variable
        self._inherited = tuple(inherited)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs now, or ran last; 0 before the first and after the end."""
        return 0 if self._process is None else self._process.pid

    def spawn(self) -> None:
        """Start the process. Raises StoppedError after `stop`."""
        self._places.address_file.unlink(missing_ok=True)
        with self._lock:
            if self._stopping.is_set():
                raise StoppedError(f"{self.name} was stopped")
            with self._places.log.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603  # our own module
                    # Neither the current folder's modules, nor its files: a `services` package that lies there by
                    # chance would run with our secrets.
                    [sys.executable, "-P", "-m", "loramux.cli.embedded.child", self._module],
                    env=self._environment,
                    cwd=self._places.folder,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=self._inherited,
                    # Ctrl-C reaches us alone, and we stop the services in order.
                    start_new_session=True,
                )
        self._on_event(Event("starting", self.name))

    def wait_until_ready(self) -> None:
        """Wait for the address file. Raises EmbeddedError when the process ends before, StoppedError."""
        process = self._running()
        while not self._places.address_file.exists():
            if self._stopping.is_set():
                raise StoppedError(f"{self.name} was stopped")
            if process.poll() is not None:
                raise EmbeddedError(
                    f"{self.name} {_ending(process.returncode)} before it was ready; the end of {self._places.log}:\n"
                    f"{tail(self._places.log)}"
                )
            self._stopping.wait(_POLL_SECONDS)
        self.address = self._places.address_file.read_text()
        if self._port_variable is not None:
            self._environment[self._port_variable] = self.address.rpartition(":")[2]
        self._on_event(Event("ready", self.name, self.address))

    def supervise(self) -> None:
        """From now on, start the process again when it dies."""
        self._watcher = threading.Thread(target=self._watch, name=f"watch-{self.name}", daemon=True)
        self._watcher.start()

    def stop(self, seconds: float, hurry: threading.Event) -> None:
        """SIGTERM, then SIGKILL after `seconds` or once `hurry` is set. Nothing of it is left afterwards."""
        self._stopping.set()
        with self._lock:
            process = self._process
        if process is None:
            return
        if process.poll() is None:
            self._on_event(Event("stopping", self.name))
            process.terminate()
            deadline = time.monotonic() + seconds
            while process.poll() is None and time.monotonic() < deadline and not hurry.is_set():
                hurry.wait(_POLL_SECONDS)
        killed = process.poll() is None
        if killed:
            # With whatever it may have started, while its number is surely still its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _close(process.stdin)
        if self._watcher is not None:
            self._watcher.join()
        with self._lock:
            self._process = None
        self._on_event(Event("killed" if killed else "stopped", self.name))

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise RuntimeError(f"{self.name} has not been spawned")
        return self._process

    def _watch(self) -> None:
        delay = _FIRST_DELAY_SECONDS
        while True:
            started = time.monotonic()
            process = self._running()
            status = process.wait()
            if self._stopping.is_set():
                return
            _close(process.stdin)
            if time.monotonic() - started > _SETTLED_SECONDS:
                delay = _FIRST_DELAY_SECONDS
            self._on_event(Event("died", self.name, f"{_ending(status)}; starting again in {delay:g} s"))
            if self._stopping.wait(delay):
                return
            delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
            try:
                self.spawn()
                self.wait_until_ready()
            except StoppedError:
                return
            except EmbeddedError as error:
                self._on_event(Event("failed", self.name, str(error)))


def tail(log: Path) -> str:
    """The last lines of a log for people: events of JSON lines with their fields, other lines as they are."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return "  (it wrote nothing)"
    shown = [one for line in lines[-_TAIL_LINES:] for one in _readable(line)]
    return "\n".join(f"  {line}" for line in shown[-2 * _TAIL_LINES :]) or "  (it wrote nothing)"


def _readable(line: str) -> list[str]:
    try:
        fields = json.loads(line)
        event = fields.pop("event")
    except (ValueError, KeyError, TypeError, AttributeError):
        return [line]
    trace = str(fields.pop("exception", "")).splitlines()
    for name in ("timestamp", "level", "logger", "service"):
        fields.pop(name, None)
    return [" ".join([str(event), *(f"{name}={value}" for name, value in fields.items())]), *trace]


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        pipe.close()
