"""A worker that answers as a test tells it to. `python -m tests.support.gateway_worker SECRET` runs one to kill."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio

from loramux.inference.v1 import inference_pb2
from loramux.worker.v1 import worker_pb2, worker_pb2_grpc
from services.common import internal
from services.common.interceptors import CallInterceptor, InternalDoor
from services.common.rpc_types import RpcContext

Event = worker_pb2.Chunk | worker_pb2.Summary | worker_pb2.Started | worker_pb2.GenerateResponse
Script = Callable[[worker_pb2.GenerateRequest], AsyncIterator[Event]]
"""What a call does: sends what it yields, fails with what it raises, lasts as long as it waits."""


def chunk(text: str = "x", tokens: int = 1) -> worker_pb2.Chunk:
    return worker_pb2.Chunk(text=text * tokens, token_ids=[120] * tokens)


def summary(request: worker_pb2.GenerateRequest, tokens: int, cached: int = 0) -> worker_pb2.Summary:
    return worker_pb2.Summary(
        choices=[worker_pb2.Choice(finish_reason=inference_pb2.FINISH_REASON_LENGTH)],
        prompt_tokens=len(request.prompt_token_ids),
        cached_tokens=cached,
        completion_tokens=tokens,
        engine="scripted",
        mode="by hand",
    )


async def obliging(request: worker_pb2.GenerateRequest) -> AsyncIterator[Event]:
    """Produces all the tokens it was asked for, one by one."""
    for _ in range(request.sampling.max_tokens):
        yield chunk()
    yield summary(request, request.sampling.max_tokens)


def stuck_after(tokens: int) -> Script:
    """Produces some tokens, then nothing for ever."""

    async def script(request: worker_pb2.GenerateRequest) -> AsyncIterator[Event]:
        for _ in range(tokens):
            yield chunk()
        await asyncio.Event().wait()

    return script


def failing_after(tokens: int, error: Exception) -> Script:
    """Produces some tokens, then fails."""

    async def script(request: worker_pb2.GenerateRequest) -> AsyncIterator[Event]:
        for _ in range(tokens):
            yield chunk()
        raise error

    return script


@dataclass
class ScriptedWorker:
    script: Script = obliging
    requests: list[worker_pb2.GenerateRequest] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    """Notified when a call begins or ends."""
    address: str = ""

    async def until_running(self, count: int) -> None:
        async with self.arrived:
            await self.arrived.wait_for(lambda: self.running == count)


def _response(event: Event) -> worker_pb2.GenerateResponse:
    match event:
        case worker_pb2.Chunk():
            return worker_pb2.GenerateResponse(chunk=event)
        case worker_pb2.Summary():
            return worker_pb2.GenerateResponse(summary=event)
        case worker_pb2.Started():
            return worker_pb2.GenerateResponse(started=event)
        case _:
            return event


class _Servicer(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(self, worker: ScriptedWorker) -> None:
        self._worker = worker

    async def Generate(  # type: ignore[override]  # the stub allows generators only
        self, request: worker_pb2.GenerateRequest, context: RpcContext
    ) -> None:
        self._worker.requests.append(request)
        self._worker.metadata.append(internal.metadata_of(context))
        await self._count(1)
        try:
            async with aclosing(self._worker.script(request)) as events:  # type: ignore[type-var]  # generators
                async for event in events:
                    await context.write(_response(event))
        finally:
            self._worker.running -= 1
            async with self._worker.arrived:
                self._worker.arrived.notify_all()

    async def LoadAdapter(
        self, request: worker_pb2.LoadAdapterRequest, context: RpcContext
    ) -> worker_pb2.LoadAdapterResponse:
        return worker_pb2.LoadAdapterResponse()

    async def GetStats(
        self, request: worker_pb2.GetStatsRequest, context: RpcContext
    ) -> worker_pb2.GetStatsResponse:
        return worker_pb2.GetStatsResponse()

    async def _count(self, change: int) -> None:
        self._worker.running += change
        async with self._worker.arrived:
            self._worker.arrived.notify_all()


@asynccontextmanager
async def serving_worker(worker: ScriptedWorker, secret: str) -> AsyncIterator[grpc.aio.Server]:
    door = InternalDoor(internal.InternalCalls(secret))
    interceptor = CallInterceptor({"loramux.worker.v1.WorkerService": door})
    server = grpc.aio.server(
        interceptors=[interceptor], options=[*internal.KEEPALIVE_OPTIONS, ("grpc.so_reuseport", 0)]
    )
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(_Servicer(worker), server)
    worker.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


async def _main(secret: str) -> None:
    worker = ScriptedWorker(script=stuck_after(3))
    async with serving_worker(worker, secret):
        print(worker.address, flush=True)  # noqa: T201  # for the test that started it
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
