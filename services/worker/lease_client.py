"""The worker's lease: a stream to the registry that says it is there, what is resident and how busy it is."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc.aio

from loramux.fleet.v1 import fleet_pb2, fleet_pb2_grpc
from services.common import internal, logs

_FIRST_WAIT = 0.1
_LONGEST_WAIT = 3.0
_DEFAULT_INTERVAL = 5.0
_DRAIN_NOTICE_SECONDS = 2.0

if TYPE_CHECKING:
    # The stubs' types are generic; the classes at runtime are not.
    _Register = grpc.aio.StreamStreamCall[fleet_pb2.RegisterRequest, fleet_pb2.RegisterResponse]

_log = logs.get_logger(__name__)


@dataclass(frozen=True)
class Load:
    """What a report says, but for draining."""

    residents: Sequence[str]
    running: int
    waiting: int
    kv_blocks: int = 0
    kv_blocks_held: int = 0
    adapter_bytes: int = 0


class Lease:
    """Registers, reports, and begins again for ever when the registry goes away; serving does not depend on it."""

    def __init__(
        self,
        stub: "fleet_pb2_grpc.FleetServiceAsyncStub",
        calls: internal.InternalCalls,
        load: Callable[[], Load],
    ) -> None:
        self._stub = stub
        self._calls = calls
        self._load = load
        self._interval = _DEFAULT_INTERVAL
        self._wait = _FIRST_WAIT
        self._draining = False
        self._due = asyncio.Event()
        self._drain_told = asyncio.Event()
        self._told: frozenset[str] = frozenset()
        self._task: asyncio.Task[None] | None = None

    def start(self, registration: fleet_pb2.WorkerRegistration) -> "asyncio.Task[None]":
        """Begin, in the background; the task that is returned ends only by a defect, or by `close`."""
        self._task = asyncio.create_task(self._keep(registration))
        return self._task

    def residents_changed(self) -> None:
        """Report before the interval is over, if residents differ from what was told."""
        if frozenset(self._load().residents) != self._told:
            self._due.set()

    async def drain(self) -> None:
        """Tell the registry that no new work is taken; goes on reporting. Waits only briefly for an absent one."""
        self._draining = True
        self._due.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._drain_told.wait(), _DRAIN_NOTICE_SECONDS)

    async def close(self) -> None:
        """End the lease; the registry forgets the worker at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self, registration: fleet_pb2.WorkerRegistration) -> None:
        while True:
            try:
                await self._hold_once(registration)
                _log.info("lease_ended_by_registry")
            except grpc.aio.AioRpcError as error:
                _log.warning("lease_lost", code=error.code().name, detail=error.details())
            # Spread, so that the workers of a fleet do not all come back in the same moment.
            await asyncio.sleep(self._wait * random.uniform(0.5, 1.0))  # noqa: S311
            self._wait = min(self._wait * 2, _LONGEST_WAIT)

    async def _hold_once(self, registration: fleet_pb2.WorkerRegistration) -> None:
        """One stream, to its end."""
        call = self._stub.Register(metadata=self._calls.metadata())
        reporting = asyncio.create_task(self._report(call, registration))
        registered = False
        try:
            async for response in call:
                self._wait = _FIRST_WAIT
                self._interval = response.report_interval_ms / 1000 or _DEFAULT_INTERVAL
                if response.HasField("wanted_adapters"):
                    # Nothing is loaded ahead yet; said, so that who asks for it sees why nothing comes.
                    _log.info("wanted_adapters_passed_over", count=len(response.wanted_adapters.adapters))
                if not registered:
                    registered = True
                    _log.info("registered", worker_id=registration.worker_id, interval=self._interval)
                    self._due.set()
        finally:
            reporting.cancel()
            call.cancel()
            await asyncio.gather(reporting, return_exceptions=True)

    async def _report(self, call: "_Register", registration: fleet_pb2.WorkerRegistration) -> None:
        """Register, then report until cancelled. A write fails when the stream has ended, which its reader sees."""
        await call.write(fleet_pb2.RegisterRequest(registration=registration))
        while True:
            self._due.clear()
            draining = self._draining
            load = self._load()
            self._told = frozenset(load.residents)
            report = fleet_pb2.WorkerReport(
                resident_digests=sorted(load.residents),
                running_sequences=load.running,
                waiting_sequences=load.waiting,
                draining=draining,
                memory=fleet_pb2.Memory(
                    kv_blocks=load.kv_blocks,
                    kv_blocks_held=load.kv_blocks_held,
                    adapter_bytes=load.adapter_bytes,
                ),
            )
            await call.write(fleet_pb2.RegisterRequest(report=report))
            if draining:
                self._drain_told.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), self._interval)
