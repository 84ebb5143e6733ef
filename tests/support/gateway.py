"""A whole gateway in the test's own loop, between a scripted registry, scripted workers and real clients."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from loramux import errors as sdk
from loramux.account.v1 import account_pb2, account_pb2_grpc, usage_pb2
from loramux.deployment.v1 import deployment_pb2_grpc
from loramux.inference.v1 import inference_pb2, inference_pb2_grpc, sampling_pb2
from services.common.clock import Clock, SystemClock
from services.gateway.__main__ import Gateway, running
from services.gateway.accounts.keys import hash_of
from services.gateway.settings import GatewaySettings
from tests.support.gateway_registry import BASE, ScriptedRegistry, serving_registry, worker_route
from tests.support.gateway_worker import ScriptedWorker, serving_worker
from tests.support.secrets import DISPATCH_SECRET, GATEWAY_SECRET

if TYPE_CHECKING:
    from loramux.account.v1.account_pb2_grpc import AccountServiceAsyncStub
    from loramux.deployment.v1.deployment_pb2_grpc import DeploymentServiceAsyncStub
    from loramux.inference.v1.inference_pb2_grpc import InferenceServiceAsyncStub

OPERATOR_KEY = "lmx_operator-0123456789abcdef0123456789abcdef"
CREDIT = 1_000_000
_PATIENCE = 20.0

Metadata = tuple[tuple[str, str], ...]
Call = grpc.aio.UnaryStreamCall[inference_pb2.GenerateRequest, inference_pb2.GenerateResponse]


def bearer(key: str) -> Metadata:
    return (("authorization", f"Bearer {key}"),)


OPERATOR = bearer(OPERATOR_KEY)


@dataclass
class Answer:
    """A stream that ended well."""

    text: str
    tokens: int
    completion: inference_pb2.Completion


@dataclass
class Member:
    """An account and a key of it."""

    id: str
    key: str

    @property
    def metadata(self) -> Metadata:
        return bearer(self.key)


@dataclass
class Rig:
    """Everything a test touches."""

    registry: ScriptedRegistry
    workers: list[ScriptedWorker]
    settings: GatewaySettings
    gateway: Gateway
    inference: "InferenceServiceAsyncStub"
    accounts: "AccountServiceAsyncStub"
    deployments: "DeploymentServiceAsyncStub"
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def worker(self) -> ScriptedWorker:
        return self.workers[0]

    async def member(
        self, account: str = "acme", *, credit: int = CREDIT, limits: account_pb2.Limits | None = None
    ) -> Member:
        """An account, made on first use, with a key."""
        if account not in self.members:
            await self.accounts.CreateAccount(
                account_pb2.CreateAccountRequest(account_id=account, limits=limits, credit_pico_usd=credit),
                metadata=OPERATOR,
            )
            made = await self.accounts.CreateKey(
                account_pb2.CreateKeyRequest(account=account), metadata=OPERATOR
            )
            self.members[account] = Member(account, made.secret)
        return self.members[account]

    def call(
        self,
        member: Member,
        model: str = BASE,
        *,
        text: str = "hello",
        max_tokens: int = 4,
        n: int | None = None,
        client_request_id: str = "",
    ) -> Call:
        return self.inference.Generate(
            inference_pb2.GenerateRequest(
                model=model,
                text=text,
                sampling=sampling_pb2.SamplingParams(max_tokens=max_tokens, n=n),
                client_request_id=client_request_id,
            ),
            metadata=member.metadata,
        )

    async def account(self, account: str = "acme") -> account_pb2.Account:
        request = account_pb2.GetAccountRequest(account=account)
        return (await self.accounts.GetAccount(request, metadata=OPERATOR)).account

    async def usage(self, account: str = "acme") -> list[usage_pb2.UsageRecord]:
        request = account_pb2.ListUsageRequest(account=account, page_size=1000)
        return list((await self.accounts.ListUsage(request, metadata=OPERATOR)).records)

    async def idle(self) -> None:
        """Until no request holds anything."""
        await asyncio.wait_for(self.gateway.admissions.idle(), _PATIENCE)


def gateway_settings(tmp_path: Path, registry_address: str, **more: object) -> GatewaySettings:
    values: dict[str, object] = {
        "gateway_secret": GATEWAY_SECRET,
        "dispatch_secret": DISPATCH_SECRET,
        "registry_address": registry_address,
        "database_url": f"sqlite+aiosqlite:///{tmp_path}/gateway.db",
        "operator_key_sha256": hash_of(OPERATOR_KEY),
        "drain_seconds": 0.0,
    }
    return GatewaySettings.model_validate(values | more)


@asynccontextmanager
async def rig(
    tmp_path: Path,
    *,
    registry: ScriptedRegistry | None = None,
    workers: Sequence[ScriptedWorker] | None = None,
    clock: Clock | None = None,
    silent: bool = False,
    **settings: object,
) -> AsyncIterator[Rig]:
    """A gateway with one obliging worker, unless told otherwise; a `silent` registry does not speak yet."""
    registry = registry or ScriptedRegistry()
    if not silent:
        registry.speaks.set()
    workers = [ScriptedWorker()] if workers is None else list(workers)
    async with AsyncExitStack() as stack:
        for place, worker in enumerate(workers):
            await stack.enter_async_context(serving_worker(worker, DISPATCH_SECRET))
            registry.workers.append(worker_route(f"worker-{place}", worker.address))
        address = await stack.enter_async_context(serving_registry(registry, GATEWAY_SECRET))
        values = gateway_settings(tmp_path, address, **settings)
        gateway = await stack.enter_async_context(running(values, clock or SystemClock()))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(gateway.server.address))
        yield Rig(
            registry=registry,
            workers=workers,
            settings=values,
            gateway=gateway,
            inference=inference_pb2_grpc.InferenceServiceStub(channel),
            accounts=account_pb2_grpc.AccountServiceStub(channel),
            deployments=deployment_pb2_grpc.DeploymentServiceStub(channel),
        )


async def answer(call: Call) -> Answer:
    """Read a stream to its end."""
    text, tokens, completion = "", 0, None
    while (message := await call.read()) is not grpc.aio.EOF:
        assert isinstance(message, inference_pb2.GenerateResponse)
        if message.HasField("chunk"):
            text += message.chunk.text
            tokens += len(message.chunk.token_ids)
        else:
            assert completion is None
            completion = message.completion
    assert completion is not None
    return Answer(text, tokens, completion)


async def refusal(call: "Awaitable[object] | Call") -> sdk.LoramuxError:
    """The typed error that a call ends with."""
    try:
        if isinstance(call, grpc.aio.UnaryStreamCall):
            await answer(call)
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return sdk.from_rpc_error(error)
    raise AssertionError("the call succeeded")


async def started(call: Call) -> inference_pb2.Chunk:
    """Wait for a stream's first chunk."""
    message = await call.read()
    assert isinstance(message, inference_pb2.GenerateResponse)
    return message.chunk


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something that no event tells of, such as a route that has arrived."""
    deadline = time.monotonic() + _PATIENCE
    while not await check():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)
