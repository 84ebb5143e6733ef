"""The gateway's calls to workers, over one channel for each."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import grpc.aio

from loramux.worker.v1 import worker_pb2, worker_pb2_grpc
from services.common import errors, internal, logs
from services.common.shielding import task_is_cancelled
from services.gateway.answer import Event, Summary
from services.gateway.job import Job
from services.gateway.routes import Worker
from services.gateway.upstream import job_messages
from services.gateway.upstream.failed_calls import from_failed_call

if TYPE_CHECKING:
    # A name of the stubs alone: at runtime the sync stub serves both.
    from loramux.worker.v1.worker_pb2_grpc import WorkerServiceAsyncStub

_log = logs.get_logger(__name__)

_Call = grpc.aio.UnaryStreamCall[worker_pb2.GenerateRequest, worker_pb2.GenerateResponse]


class WorkerStream:
    """What a worker says about one request."""

    def __init__(self, call: "_Call", worker: Worker, request_id: str) -> None:
        self._call = call
        self._worker = worker
        self._request_id = request_id

    async def read(self) -> Event:
        """The next event; nothing is to be read after the summary. What this gateway does not know is passed over.

        Raises the worker's own error, UnavailableError WORKER_LOST when the worker is gone, InternalError when it
        does not keep to the protocol.
        """
        event = None
        while event is None:
            message = await self._next()
            if message is None:
                _log.error("worker_stream_without_summary", worker=self._worker.id)
                raise errors.InternalError(self._request_id)
            event = job_messages.event(message)
        if isinstance(event, Summary):
            try:
                # The worker has yet to end its call; cancelling it now would count there as a client that left.
                while await self._next() is not None:
                    pass
            except errors.ServiceError as error:
                _log.warning("worker_failed_after_summary", worker=self._worker.id, error=str(error))
        return event

    async def _next(self) -> worker_pb2.GenerateResponse | None:
        lost = errors.UnavailableError(
            "WORKER_LOST",
            "the worker that ran the request is gone",
            retry_after=1.0,
        )
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise from_failed_call(error, lost, self._request_id) from error
        except asyncio.CancelledError:
            if task_is_cancelled():
                raise
            # The call was cancelled under us: its channel has been closed.
            raise lost from None
        return None if message is grpc.aio.EOF else cast("worker_pb2.GenerateResponse", message)


@dataclass
class _Link:
    channel: grpc.aio.Channel
    stub: "WorkerServiceAsyncStub"
    calls: "set[_Call]" = field(default_factory=set)
    """In flight."""


class WorkerClient:
    """Channels to workers, by worker id: a worker that starts anew at an old address gets a fresh one."""

    def __init__(self, calls: internal.InternalCalls) -> None:
        self._calls = calls
        self._links: dict[str, _Link] = {}
        self._known: frozenset[str] = frozenset()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> Mapping[str, int]:
        """This gateway's requests in flight by worker id."""
        return {worker_id: len(link.calls) for worker_id, link in self._links.items()}

    @asynccontextmanager
    async def generate(self, worker: Worker, job: Job) -> AsyncIterator[WorkerStream]:
        """Run a job on a worker; leaving the context ends it there, whatever it has come to."""
        link = self._link(worker)
        call = link.stub.Generate(
            job_messages.worker_request(job),
            metadata=self._calls.metadata(request_id=job.request_id, account=job.account),
        )
        link.calls.add(call)
        try:
            yield WorkerStream(call, worker, job.request_id)
        finally:
            call.cancel()
            link.calls.discard(call)
            self._close_unused()

    def cut(self, workers: Iterable[str]) -> None:
        """End what runs on workers that were lost: their streams may never end by themselves."""
        for worker_id in workers:
            link = self._links.get(worker_id)
            for call in () if link is None else tuple(link.calls):
                call.cancel()

    def keep(self, workers: Iterable[str]) -> None:
        """Close the channels of all others: at once, or when their last request has ended.

        A worker that drains leaves the fleet while it still finishes what it has.
        """
        self._known = frozenset(workers)
        self._close_unused()

    async def stop(self) -> None:
        """Close every channel, and cancel what runs on it."""
        links, self._links = self._links, {}
        for link in links.values():
            await link.channel.close()
        await asyncio.gather(*self._closing)

    def _link(self, worker: Worker) -> _Link:
        link = self._links.get(worker.id)
        if link is None:
            channel = self._calls.channel(worker.address)
            link = self._links[worker.id] = _Link(channel, worker_pb2_grpc.WorkerServiceStub(channel))
        return link

    def _close_unused(self) -> None:
        gone = [
            worker_id
            for worker_id, link in self._links.items()
            if not link.calls and worker_id not in self._known
        ]
        for link in [self._links.pop(worker_id) for worker_id in gone]:
            closing = asyncio.create_task(link.channel.close(None))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
