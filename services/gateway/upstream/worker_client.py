"""The gateway's calls to workers, over one channel for each."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import grpc.aio

from loramux.worker.v1 import worker_pb2, worker_pb2_grpc
from services.common import errors, interceptors, internal, logs
from services.common.shielding import task_is_cancelled
from services.gateway.job import Job, Produced, Summary
from services.gateway.routes import Worker
from services.gateway.rpc import inference_messages
from services.gateway.upstream.failed_calls import from_failed_call
from services.gateway.upstream.relayed import RelayedError

if TYPE_CHECKING:
    # A name of the stubs alone: at runtime the sync stub serves both.
    from loramux.worker.v1.worker_pb2_grpc import WorkerServiceAsyncStub

_log = logs.get_logger(__name__)

_Call = grpc.aio.UnaryStreamCall[worker_pb2.GenerateRequest, worker_pb2.GenerateResponse]


class WorkerStream:
    """What a worker says about one request."""

    def __init__(self, call: "_Call", worker: Worker) -> None:
        self._call = call
        self._worker = worker

    async def read(self) -> Produced | Summary:
        """The next chunk, or the summary, after which there is nothing to read.

        Raises RelayedError with the worker's own status, UnavailableError WORKER_LOST when the worker is gone,
        InternalError when it does not keep to the protocol.
        """
        message = await self._next()
        if message is None:
            _log.error("worker_stream_without_summary", worker=self._worker.id)
            raise errors.InternalError(interceptors.request_id())
        if message.HasField("chunk"):
            return Produced(chunk=message.chunk, tokens=len(message.chunk.token_ids))
        try:
            # The worker has yet to end its call; cancelling it now would count there as a client that left.
            await self._next()
        except (errors.ServiceError, RelayedError) as error:
            _log.warning("worker_failed_after_summary", worker=self._worker.id, error=str(error))
        return inference_messages.summary(message.summary)

    async def _next(self) -> worker_pb2.GenerateResponse | None:
        lost = errors.UnavailableError(
            "WORKER_LOST",
            "the worker that ran the request is gone",
            retry_after=1.0,
        )
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise from_failed_call(error, lost) from error
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
    in_flight: int = 0


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
        return {worker_id: link.in_flight for worker_id, link in self._links.items()}

    @asynccontextmanager
    async def generate(self, worker: Worker, job: Job) -> AsyncIterator[WorkerStream]:
        """Run a job on a worker; leaving the context ends it there, whatever it has come to."""
        link = self._link(worker)
        call = link.stub.Generate(
            inference_messages.worker_request(job),
            metadata=self._calls.metadata(request_id=job.request_id, account=job.account),
        )
        link.in_flight += 1
        try:
            yield WorkerStream(call, worker)
        finally:
            call.cancel()
            link.in_flight -= 1
            self._close_unused()

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
            if link.in_flight == 0 and worker_id not in self._known
        ]
        for link in [self._links.pop(worker_id) for worker_id in gone]:
            closing = asyncio.create_task(link.channel.close(None))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
