"""What surrounds every call, over a real server: errors, request ids, health, reflection, drain."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path

import grpc.aio
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from loramux import errors as sdk
from loramux.inference.v1 import inference_pb2, inference_pb2_grpc
from services.common import errors
from services.common.interceptors import AnswerStream, Door, InternalDoor
from services.common.internal import REQUEST_ID, InternalCalls
from services.common.rpc_types import RpcContext
from services.common.server import MAX_REQUEST_BYTES, RpcServer, ServiceBinding, run_until_signalled
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


class OpenDoor:
    """Lets everybody in."""

    takes_request_ids = False

    async def open(self, metadata: Mapping[str, str]) -> None:
        pass


def make(body: Body, door: Door | None = None, address_file: Path | None = None) -> RpcServer:
    settings = ServiceSettings(address_file=address_file, drain_seconds=5)
    binding = ServiceBinding(
        NAME,
        door or OpenDoor(),
        lambda server: inference_pb2_grpc.add_InferenceServiceServicer_to_server(Servicer(body), server),
    )
    return RpcServer(settings, [binding])


@asynccontextmanager
async def serving(body: Body, door: Door | None = None) -> AsyncIterator[grpc.aio.Channel]:
    server = make(body, door)
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
    async with serving(body, InternalDoor(calls)) as channel:
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            error = await outcome(channel, metadata)
            assert isinstance(error, sdk.UnauthenticatedError)
            assert SECRET not in str(error)
        assert isinstance(await outcome(channel, calls.metadata()), sdk.NotFoundError)


async def test_a_door_that_breaks_lets_nobody_in_and_tells_nothing() -> None:
    class Broken(OpenDoor):
        async def open(self, metadata: Mapping[str, str]) -> None:
            raise RuntimeError("password is hunter2")

    async def body(_context: RpcContext) -> None:
        raise errors.NotFoundError("model", "reached")

    async with serving(body, Broken()) as channel:
        error = await outcome(channel)
    assert isinstance(error, sdk.InternalError)
    assert "hunter2" not in str(error)


async def test_a_message_is_not_parsed_before_the_door_has_let_the_call_in() -> None:
    async def body(_context: RpcContext) -> None:
        raise errors.NotFoundError("model", "reached")

    async def send(channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> grpc.aio.AioRpcError:
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/{NAME}/Generate")
        call = method(b"\xff\xff no message of ours", metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        return caught.value

    calls = InternalCalls(SECRET)
    async with serving(body, InternalDoor(calls)) as channel:
        outside = await send(channel, ())
        inside = await send(channel, calls.metadata())
    # Whoever has the secret gets as far as the parser; whoever has not is told of the secret, whatever the bytes are.
    assert outside.code() is grpc.StatusCode.UNAUTHENTICATED
    assert inside.code() is not grpc.StatusCode.UNAUTHENTICATED


async def test_what_a_door_sets_the_servicer_finds() -> None:
    who: ContextVar[str] = ContextVar("who")

    class Naming(OpenDoor):
        async def open(self, metadata: Mapping[str, str]) -> None:
            await asyncio.sleep(0)
            who.set(metadata["x-who"])

    async def body(_context: RpcContext) -> None:
        raise errors.NotFoundError("model", who.get())

    async with serving(body, Naming()) as channel:
        found = await asyncio.gather(*(outcome(channel, (("x-who", f"caller-{n}"),)) for n in range(20)))
    assert [error.metadata["resource_name"] for error in found] == [f"caller-{n}" for n in range(20)]


async def test_every_end_names_its_request_in_trailing_metadata_and_the_first_chunk_in_headers() -> None:
    async def body(context: RpcContext) -> None:
        answer = AnswerStream(context)
        for _ in range(2):
            await answer.write(inference_pb2.GenerateResponse())

    async with serving(body) as channel:
        call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(inference_pb2.GenerateRequest())
        assert len([message async for message in call]) == 2
        initial = dict(await call.initial_metadata())
        trailing = dict(await call.trailing_metadata())
    assert initial[REQUEST_ID] == trailing[REQUEST_ID] != ""


@pytest.mark.parametrize(
    ("error", "pushback"),
    [
        (errors.UnavailableError("DRAINING", "draining", retry_after=0.25), "250"),
        (errors.LimitReachedError("POOL_FULL", "pool", "full", maximum=1, retry_after=2), "2000"),
        (errors.NotFoundError("model", "x"), None),
        (errors.UnauthenticatedError("KEY_INVALID", "the key is wrong"), None),
    ],
)
async def test_a_refusal_carries_the_request_and_what_grpc_retries_by(
    error: errors.ServiceError, pushback: str | None
) -> None:
    async def body(_context: RpcContext) -> None:
        raise error

    async with serving(body) as channel:
        call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(inference_pb2.GenerateRequest())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(call))
    trailing = dict(caught.value.trailing_metadata() or ())
    assert trailing.get("grpc-retry-pushback-ms") == pushback
    info = error_details_pb2.RequestInfo()
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.request_id == trailing[REQUEST_ID] != ""


async def test_a_message_above_the_bound_is_refused_by_the_transport() -> None:
    async def body(_context: RpcContext) -> None:
        raise errors.NotFoundError("model", "reached")

    async with serving(body) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(
                aiter(stub.Generate(inference_pb2.GenerateRequest(text="x" * (MAX_REQUEST_BYTES + 1))))
            )
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


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
