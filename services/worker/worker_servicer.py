"""WorkerService: protobuf to domain and back, and nothing else."""

import asyncio
from contextlib import aclosing

import structlog

from loramux.worker.v1 import worker_pb2, worker_pb2_grpc
from services.common import errors
from services.common.rpc_types import RpcContext
from services.worker.adapters.ready_adapters import Adapters
from services.worker.engine.interface import Engine
from services.worker.generator import Generator
from services.worker.text.token_texts import TokenTexts
from services.worker.worker_messages import EventMessages, adapter_version, deadline_of, request_of


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """One worker's service."""

    def __init__(self, generator: Generator, adapters: Adapters, engine: Engine, texts: TokenTexts) -> None:
        self._generator = generator
        self._adapters = adapters
        self._engine = engine
        self._messages = EventMessages(engine.capabilities, texts)

    async def Generate(  # type: ignore[override]  # the stubs allow generators only; see interceptors
        self, request: worker_pb2.GenerateRequest, context: RpcContext
    ) -> None:
        """Started, chunks, then one summary; ends the sequence at once when the call is cancelled, or its time is over."""
        structlog.contextvars.bind_contextvars(account=request.account)
        try:
            async with (
                asyncio.timeout(deadline_of(request)),
                aclosing(self._generator.run(request_of(request))) as events,
            ):
                async for event in events:
                    await context.write(self._messages.response(event))
        except TimeoutError:
            raise errors.UnavailableError(
                "DEADLINE_PASSED", "the time that the caller waits is over", retry_after=1.0
            ) from None

    async def LoadAdapter(
        self, request: worker_pb2.LoadAdapterRequest, _context: RpcContext
    ) -> worker_pb2.LoadAdapterResponse:
        """Fetch, check, load, and run it once."""
        if not request.HasField("adapter"):
            raise errors.InvalidFieldError("adapter", "unset", "an adapter version")
        await self._adapters.probe(adapter_version(request.adapter))
        return worker_pb2.LoadAdapterResponse()

    async def GetStats(
        self, _request: worker_pb2.GetStatsRequest, _context: RpcContext
    ) -> worker_pb2.GetStatsResponse:
        """What runs, what waits, what is resident and held; tokens since the start."""
        stats = self._engine.stats()
        return worker_pb2.GetStatsResponse(
            running_sequences=stats.running,
            waiting_sequences=stats.waiting,
            adapters=[
                worker_pb2.ResidentAdapter(digest=digest, pins=pins, size_bytes=stats.adapter_bytes[digest])
                for digest, pins in stats.adapters.items()
            ],
            prompt_tokens_total=self._generator.totals.prompt_tokens,
            completion_tokens_total=self._generator.totals.completion_tokens,
        )
