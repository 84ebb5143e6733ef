"""What surrounds every call, over a real server: errors, request ids, health, reflection, drain."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from loramux import errors as sdk
from loramux.inference.v1 import inference_pb2, inference_pb2_grpc
from services.common import errors
from services.common.internal import InternalCalls
from services.common.rpc_types import RpcContext
from services.common.server import RpcServer, ServiceBinding, run_until_signalled
from services.common.settings import ServiceSettings

SECRET = "s" * 32
NAME = "loramux.inference.v1.InferenceService"
Body = Callable[[RpcContext], Awaitable[None]]


class Servicer(inference_pb2_grpc.InferenceServiceServicer):
    def __init__(self, body: Body) -> None:
        self._body = body

    async def Generate(  # type: ignore[override]  # the stub allows generators only
        self, request: inference_pb2.GenerateRequest, context: RpcContext
    ) -> None:
        await self._body(context)


def make(body: Body, calls: InternalCalls | None = None, address_file: Path | None = None) -> RpcServer:
    settings = ServiceSettings(internal_secret=SECRET, address_file=address_file, drain_seconds=5)
    binding = ServiceBinding(
        NAME, lambda server: inference_pb2_grpc.add_InferenceServiceServicer_to_server(Servicer(body), server)
    )
    return RpcServer(settings, [binding], calls=calls)


@asynccontextmanager
async def serving(body: Body, calls: InternalCalls | None = None) -> AsyncIterator[grpc.aio.Channel]:
    server = make(body, calls)
    await server.start()
    await server.ready()
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel
    await server.stop()


async def outcome(channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> sdk.LoramuxError:
    stub = inference_pb2_grpc.InferenceServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.Generate(inference_pb2.GenerateRequest(), metadata=metadata):
            pass
    return sdk.from_rpc_error(caught.value)


async def test_a_domain_error_arrives_typed_with_its_retry() -> None:
    async def body(_context: RpcContext) -> None:
        raise errors.LimitReachedError("POOL_FULL", "pool acme", "4 of 4", maximum=4, retry_after=0.5)

    async with serving(body) as channel:
        error = await outcome(channel)
    assert isinstance(error, sdk.LimitReachedError)
    assert (error.reason, error.retry_after, error.metadata["maximum"]) == ("POOL_FULL", 0.5, "4")


async def test_a_defect_shows_nothing_but_a_request_id() -> None:
    async def body(_context: RpcContext) -> None:
        raise RuntimeError("password is hunter2")

    async with serving(body) as channel:
        error = await outcome(channel)
    assert isinstance(error, sdk.InternalError)
    assert "hunter2" not in str(error)
    assert error.metadata["request_id"] in error.message


async def test_a_servicer_that_raises_cancelled_does_not_leave_the_client_waiting() -> None:
    async def body(_context: RpcContext) -> None:
        raise asyncio.CancelledError

    async with serving(body) as channel:
        error = await asyncio.wait_for(outcome(channel), 5)
    assert isinstance(error, sdk.UnavailableError)
    assert error.reason == "CALL_CUT_SHORT"


async def test_a_caller_that_leaves_cancels_the_servicer() -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def body(_context: RpcContext) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with serving(body) as channel:
        call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(inference_pb2.GenerateRequest())
        await asyncio.wait_for(entered.wait(), 5)
        call.cancel()
        await asyncio.wait_for(cancelled.wait(), 5)


async def test_an_internal_server_refuses_calls_without_the_secret() -> None:
    async def body(_context: RpcContext) -> None:
        raise errors.NotFoundError("model", "reached")

    calls = InternalCalls(SECRET)
    async with serving(body, calls) as channel:
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            error = await outcome(channel, metadata)
            assert isinstance(error, sdk.UnauthenticatedError)
            assert SECRET not in str(error)
        assert isinstance(await outcome(channel, calls.metadata()), sdk.NotFoundError)


async def test_health_and_reflection_tell_what_is_served() -> None:
    async def body(_context: RpcContext) -> None:
        return

    server = make(body)
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def status() -> int:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=NAME))  # type: ignore[attr-defined]
            return int(answer.status)

        assert await status() == health_pb2.HealthCheckResponse.NOT_SERVING
        await server.ready()
        assert await status() == health_pb2.HealthCheckResponse.SERVING

        def reflected() -> set[str]:
            with grpc.insecure_channel(server.address) as plain:
                database = ProtoReflectionDescriptorDatabase(plain)
                service = DescriptorPool(database).FindServiceByName(NAME)
                assert [method.name for method in service.methods] == ["Generate"]
                return set(database.get_services())

        assert NAME in await asyncio.to_thread(reflected)
        await server.refuse_new()
        assert await status() == health_pb2.HealthCheckResponse.NOT_SERVING
    await server.stop()


async def test_a_drain_lets_a_running_call_end(tmp_path: Path) -> None:
    entered, proceed = asyncio.Event(), asyncio.Event()

    async def body(context: RpcContext) -> None:
        entered.set()
        await proceed.wait()
        await context.write(inference_pb2.GenerateResponse())

    address_file = tmp_path / "address"
    server = make(body, address_file=address_file)
    await server.start()
    assert not address_file.exists()
    await server.ready()
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def draining() -> None:
        proceed.set()

    async with grpc.aio.insecure_channel(address_file.read_text()) as channel:
        run = asyncio.create_task(run_until_signalled(server, while_draining=draining, failed=[failed]))
        call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(inference_pb2.GenerateRequest())
        await asyncio.wait_for(entered.wait(), 5)
        failed.set_exception(RuntimeError("the engine is gone"))
        assert len([response async for response in call]) == 1
        with pytest.raises(RuntimeError, match="the engine is gone"):
            await asyncio.wait_for(run, 5)
