"""What `loramux up` shows: one line for each service, what takes long in place, and deaths as they happen."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.status import Status
from rich.text import Text

from loramux.cli import console
from loramux.cli.embedded.supervision import Event
from loramux.profile import Profile

_TICK_SECONDS = 0.5


class Display:
    """Told of events from several threads; writes to stderr."""

    def __init__(self) -> None:
        self._console = console.err()
        self._status: Status | None = None
        self._waiting: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Show what is waited for, and for how long, until the block ends."""
        if not self._console.is_terminal:
            yield
            return
        ended = threading.Event()
        with self._console.status("starting") as status:
            self._status = status
            ticker = threading.Thread(target=self._tick, args=[ended], daemon=True)
            ticker.start()
            try:
                yield
            finally:
                ended.set()
                ticker.join()
                self._status = None

    def event(self, event: Event) -> None:
        """One line, or a change of what is waited for."""
        with self._lock:
            match event.kind:
                case "progress" | "starting":
                    _, since = self._waiting.get(event.service, ("", time.monotonic()))
                    self._waiting[event.service] = (event.detail or "starting", since)
                    if self._status is None:
                        self._line("·", event.service, event.detail or "starting", "dim")
                case "ready":
                    _, since = self._waiting.pop(event.service, ("", time.monotonic()))
                    took = f"  ({time.monotonic() - since:.1f} s)"
                    self._line("✓", event.service, f"{event.detail}{took}", "green")
                case "died":
                    self._line("✗", event.service, event.detail, "bold red")
                case "failed":
                    self._line("✗", event.service, event.detail, "bold red")
                case "killed":
                    self._line("✗", event.service, "did not stop in time and was killed", "yellow")
                case "stopping" | "stopped":
                    self._line("·", event.service, event.kind, "dim")
        self._show_waiting()

    def running(self, running: Profile, *, account: str, logs: Path) -> None:
        """Everything is up: where, whose key, and what to type next."""
        self._console.print()
        for name, value in (
            ("gateway", running.target),
            ("hub", running.hub_endpoint),
            ("account", account),
            ("API key", running.api_key),
            ("logs", str(logs)),
        ):
            self._console.print(Text.assemble((f"  {name:<9}", "bold"), value))
        self._console.print()
        console.note(
            "In another terminal: loramux models, loramux deploy, loramux chat. Ctrl-C stops.", "dim"
        )

    def _line(self, mark: str, service: str, text: str, style: str) -> None:
        # A terminal that is gone must not keep the services from being stopped.
        with suppress(OSError):
            self._console.print(Text.assemble((f"{mark} ", style), (f"{service:<11}", "bold"), text))

    def _tick(self, ended: threading.Event) -> None:
        while not ended.wait(_TICK_SECONDS):
            self._show_waiting()

    def _show_waiting(self) -> None:
        with self._lock:
            if self._status is None or not self._waiting:
                return
            now = time.monotonic()
            parts = [f"{name}: {what} ({now - since:.0f} s)" for name, (what, since) in self._waiting.items()]
            self._status.update(Text(", ".join(parts)))
