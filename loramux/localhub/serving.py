"""The hub over HTTP: in the foreground for a command, on a thread of its own for tests."""

import asyncio
import socket
import threading
from collections.abc import Callable
from types import TracebackType

import uvicorn

from loramux.localhub.app import make_app
from loramux.localhub.hub import LocalHub


def serve(hub: LocalHub, *, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. `ready` is told the endpoint. Raises OSError when the port is taken."""
    listener = _listen(host, port)
    server = _Server(hub, listener, ready)
    server.run(sockets=[listener])


def running(hub: LocalHub) -> "Running":
    """Serve on a free port for the length of a `with` or `async with`, which yields the endpoint's URL."""
    return Running(hub)


class Running:
    """A hub on a thread of its own; both kinds of context manager."""

    def __init__(self, hub: LocalHub) -> None:
        listener = _listen("127.0.0.1", 0)
        self._started = threading.Event()
        self._server = _Server(hub, listener, lambda _endpoint: self._started.set())
        self._thread = threading.Thread(target=self._run, args=[listener], name="localhub", daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        self._started.wait()
        if not self._server.started:
            raise RuntimeError("the hub's server did not start")
        return self._server.endpoint

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def __aenter__(self) -> str:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.__exit__, None, None, None)

    def _run(self, listener: socket.socket) -> None:
        try:
            self._server.run(sockets=[listener])
        finally:
            self._started.set()


class _Server(uvicorn.Server):
    def __init__(self, hub: LocalHub, listener: socket.socket, ready: Callable[[str], None]) -> None:
        host, port = listener.getsockname()[:2]
        self.endpoint = f"http://{host}:{port}"
        self._ready = ready
        super().__init__(
            uvicorn.Config(
                make_app(hub),
                lifespan="off",
                access_log=False,
                log_level="critical",
                timeout_graceful_shutdown=1,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready(self.endpoint)


def _listen(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port))
