"""The one place where a service's gRPC server is put together: interceptors, services, health, reflection."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common import interceptors, internal, logs
from services.common.settings import ServiceSettings

# The largest message that a service takes in. A prompt of 131,072 tokens is 400 kB as ids and some 600 kB as text.
MAX_REQUEST_BYTES = 1 << 20

_log = logs.get_logger(__name__)


@dataclass(frozen=True)
class ServiceBinding:
    """A service's full name, who may call it, and the call that adds its servicer to a server."""

    name: str
    door: interceptors.Door
    add: Callable[[grpc.aio.Server], None]


class RpcServer:
    """A gRPC server of ours: not serving until `ready`, drained by `stop`."""

    def __init__(
        self,
        settings: ServiceSettings,
        services: Sequence[ServiceBinding],
    ) -> None:
        self._settings = settings
        self._server = grpc.aio.server(
            interceptors=[interceptors.CallInterceptor({service.name: service.door for service in services})],
            options=[
                *internal.KEEPALIVE_OPTIONS,
                ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
                # A second server on the same port would take half the connections in silence.
                ("grpc.so_reuseport", 0),
            ],
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._names = [service.name for service in services]
        for service in services:
            service.add(self._server)
        reflection.enable_server_reflection(
            [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME],
            self._server,
        )
        self.address = ""

    async def start(self) -> None:
        """Listen. Health answers NOT_SERVING until `ready`. Raises RuntimeError when the port is taken."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        port = self._server.add_insecure_port(f"{self._settings.host}:{self._settings.port}")
        await self._server.start()
        self.address = f"{self._settings.advertise_host or self._settings.host}:{port}"

    async def ready(self) -> None:
        """Report SERVING, and tell the address to who waits for the address file."""
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        if self._settings.address_file is not None:
            _write_atomically(self._settings.address_file, self.address)
        _log.info("serving", address=self.address, services=self._names)

    async def refuse_new(self) -> None:
        """Report NOT_SERVING for good, so that clients which watch health go elsewhere."""
        await self._health.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Let running calls end within the drain time, then cut what is left."""
        await self._server.stop(self._settings.drain_seconds)

    async def _set_health(self, status: int) -> None:
        for name in ("", *self._names):
            await self._health.set(name, status)


async def run_until_signalled(
    server: RpcServer,
    *,
    while_draining: Callable[[], Awaitable[None]] | None = None,
    failed: "Sequence[asyncio.Future[None]]" = (),
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `while_draining` runs before calls are waited for.

    `failed` ends serving too: each is a background part without which the service is of no use, and sets its
    exception, which is raised here after the drain.
    """
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled.set)
    waits: set[asyncio.Future[object]] = {asyncio.ensure_future(signalled.wait())}
    waits.update(asyncio.ensure_future(_outcome(part)) for part in failed)
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()
    _log.info("draining")
    await server.refuse_new()
    if while_draining is not None:
        await while_draining()
    await server.stop()
    _log.info("stopped")
    for wait in done:
        wait.result()


async def _outcome(future: "asyncio.Future[None]") -> object:
    await asyncio.shield(future)
    return None


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)
