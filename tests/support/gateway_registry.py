"""A registry that says what a test tells it to: routes, tokenizers, deployments."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio

from loramux.deployment.v1 import deployment_pb2, deployment_pb2_grpc
from loramux.fleet.v1 import fleet_pb2, routing_pb2, routing_pb2_grpc
from loramux.type.v1 import token_price_pb2
from services.common import errors, internal
from services.common.interceptors import CallInterceptor, InternalDoor
from services.common.rpc_types import RpcContext
from tests.support.gateway_tokenizer import tokenizer_files

BASE = "tiny"
COMMIT = "base-commit"
CONTEXT = 128


def base_route(
    name: str = BASE,
    *,
    prompt_price: int = 20,
    completion_price: int = 60,
    context: int = CONTEXT,
    vocabulary: int = 0,
) -> routing_pb2.BaseRoute:
    price = token_price_pb2.TokenPrice(
        prompt_pico_usd=prompt_price,
        cached_prompt_pico_usd=prompt_price,
        completion_pico_usd=completion_price,
    )
    base = deployment_pb2.BaseModel(
        name=name, commit=COMMIT, context_length=context, price=price, vocabulary_size=vocabulary
    )
    return routing_pb2.BaseRoute(base_model=base)


def deployment_route(
    name: str,
    *,
    state: deployment_pb2.Deployment.State = deployment_pb2.Deployment.STATE_RUNNING,
    digest: str = "d" * 64,
    uid: str = "",
    failure_reason: str = "",
    failure_message: str = "",
    extras_sha256: str = "",
) -> routing_pb2.DeploymentRoute:
    uid = uid or f"uid-of-{name}"
    return routing_pb2.DeploymentRoute(
        name=name,
        uid=uid,
        account=name.partition("/")[0],
        base_model=BASE,
        state=state,
        failure_reason=failure_reason,
        failure_message=failure_message,
        extras_sha256=extras_sha256,
        adapter=fleet_pb2.AdapterRef(
            digest=digest,
            hub_repo="org/adapter",
            commit="c" * 40,
            config_sha256="1" * 64,
            weights_sha256="2" * 64,
            size_bytes=1234,
            deployment_uid=uid,
        )
        if digest
        else None,
    )


def worker_route(
    worker_id: str, address: str, *, resident: tuple[str, ...] = (), base: str = BASE, context: int = 0
) -> routing_pb2.WorkerRoute:
    return routing_pb2.WorkerRoute(
        registration=fleet_pb2.WorkerRegistration(
            worker_id=worker_id,
            address=address,
            base_model=base,
            base_commit=COMMIT,
            max_sequences=64,
            adapter_slots=8,
            capabilities=fleet_pb2.Capabilities(context_length=context),
        ),
        report=fleet_pb2.WorkerReport(resident_digests=resident),
    )


@dataclass
class Forwarded:
    """A call that the gateway passed on."""

    method: str
    account: str
    request_id: str
    request: object


@dataclass
class ScriptedRegistry:
    """Its lists of routes are what the next watcher gets as a snapshot; `send` tells those who watch."""

    base_models: list[routing_pb2.BaseRoute] = field(default_factory=lambda: [base_route()])
    deployments: list[routing_pb2.DeploymentRoute] = field(default_factory=list)
    workers: list[routing_pb2.WorkerRoute] = field(default_factory=list)
    speaks: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by `rig`; until then no watcher hears anything."""
    forwarded: list[Forwarded] = field(default_factory=list)
    refusal: errors.ServiceError | None = None
    """What every call of DeploymentService gets."""
    address: str = ""
    server: grpc.aio.Server | None = None
    watchers: list["asyncio.Queue[routing_pb2.WatchRoutesResponse]"] = field(default_factory=list)
    watch_messages: "asyncio.Queue[deployment_pb2.WatchDeploymentResponse | None]" = field(
        default_factory=asyncio.Queue
    )
    """What WatchDeployment sends; None ends it."""
    watches_open: int = 0
    extras: dict[str, deployment_pb2.RepoExtras] = field(default_factory=dict)
    """What GetRepoExtras answers, by digest; others are not found."""
    extras_asked: list[str] = field(default_factory=list)

    def snapshot(self) -> routing_pb2.WatchRoutesResponse:
        return routing_pb2.WatchRoutesResponse(
            snapshot=True,
            base_models=self.base_models,
            deployments=self.deployments,
            workers=self.workers,
        )

    async def stop(self) -> None:
        """Go away without a word."""
        assert self.server is not None
        await self.server.stop(0)

    def send(self, message: routing_pb2.WatchRoutesResponse) -> None:
        for watcher in self.watchers:
            watcher.put_nowait(message)


class _Routing(routing_pb2_grpc.RoutingServiceServicer):
    def __init__(self, registry: ScriptedRegistry) -> None:
        self._registry = registry

    async def WatchRoutes(  # type: ignore[override]  # the stub allows generators only
        self, request: routing_pb2.WatchRoutesRequest, context: RpcContext
    ) -> None:
        await self._registry.speaks.wait()
        messages: asyncio.Queue[routing_pb2.WatchRoutesResponse] = asyncio.Queue()
        messages.put_nowait(self._registry.snapshot())
        self._registry.watchers.append(messages)
        try:
            while True:
                await context.write(await messages.get())
        finally:
            self._registry.watchers.remove(messages)

    async def GetTokenizer(  # type: ignore[override]  # as above
        self, request: routing_pb2.GetTokenizerRequest, context: RpcContext
    ) -> None:
        files = tokenizer_files()
        half = len(files.tokenizer_json) // 2
        await context.write(
            routing_pb2.GetTokenizerResponse(
                commit=files.commit,
                chat_template=files.chat_template,
                special_tokens=files.special_tokens,
                tokenizer_json=files.tokenizer_json[:half],
            )
        )
        await context.write(routing_pb2.GetTokenizerResponse(tokenizer_json=files.tokenizer_json[half:]))

    async def GetRepoExtras(
        self, request: routing_pb2.GetRepoExtrasRequest, context: RpcContext
    ) -> routing_pb2.GetRepoExtrasResponse:
        self._registry.extras_asked.append(request.sha256)
        found = self._registry.extras.get(request.sha256)
        if found is None:
            raise errors.NotFoundError("repo_extras", request.sha256)
        return routing_pb2.GetRepoExtrasResponse(extras=found)


class _Deployments(deployment_pb2_grpc.DeploymentServiceServicer):
    def __init__(self, registry: ScriptedRegistry) -> None:
        self._registry = registry

    async def ListBaseModels(
        self, request: deployment_pb2.ListBaseModelsRequest, context: RpcContext
    ) -> deployment_pb2.ListBaseModelsResponse:
        self._note("ListBaseModels", request, context)
        return deployment_pb2.ListBaseModelsResponse(
            base_models=[route.base_model for route in self._registry.base_models]
        )

    async def CreateDeployment(
        self, request: deployment_pb2.CreateDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.CreateDeploymentResponse:
        account = self._note("CreateDeployment", request, context)
        name = f"{account}/{request.deployment_id}"
        return deployment_pb2.CreateDeploymentResponse(deployment=deployment_pb2.Deployment(name=name))

    async def GetDeployment(
        self, request: deployment_pb2.GetDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.GetDeploymentResponse:
        self._note("GetDeployment", request, context)
        return deployment_pb2.GetDeploymentResponse(deployment=deployment_pb2.Deployment(name=request.name))

    async def ListDeployments(
        self, request: deployment_pb2.ListDeploymentsRequest, context: RpcContext
    ) -> deployment_pb2.ListDeploymentsResponse:
        self._note("ListDeployments", request, context)
        return deployment_pb2.ListDeploymentsResponse()

    async def UpdateDeployment(
        self, request: deployment_pb2.UpdateDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.UpdateDeploymentResponse:
        self._note("UpdateDeployment", request, context)
        return deployment_pb2.UpdateDeploymentResponse()

    async def DeleteDeployment(
        self, request: deployment_pb2.DeleteDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.DeleteDeploymentResponse:
        self._note("DeleteDeployment", request, context)
        return deployment_pb2.DeleteDeploymentResponse()

    async def ListDeploymentVersions(
        self, request: deployment_pb2.ListDeploymentVersionsRequest, context: RpcContext
    ) -> deployment_pb2.ListDeploymentVersionsResponse:
        self._note("ListDeploymentVersions", request, context)
        return deployment_pb2.ListDeploymentVersionsResponse()

    async def RollBackDeployment(
        self, request: deployment_pb2.RollBackDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.RollBackDeploymentResponse:
        self._note("RollBackDeployment", request, context)
        return deployment_pb2.RollBackDeploymentResponse()

    async def WatchDeployment(  # type: ignore[override]  # the stub allows generators only
        self, request: deployment_pb2.WatchDeploymentRequest, context: RpcContext
    ) -> None:
        self._note("WatchDeployment", request, context)
        self._registry.watches_open += 1
        try:
            while (message := await self._registry.watch_messages.get()) is not None:
                await context.write(message)
        finally:
            self._registry.watches_open -= 1

    def _note(self, method: str, request: object, context: RpcContext) -> str:
        account = internal.account_of(context)
        request_id = internal.metadata_of(context).get(internal.REQUEST_ID, "")
        self._registry.forwarded.append(Forwarded(method, account, request_id, request))
        if self._registry.refusal is not None:
            raise self._registry.refusal
        return account


@asynccontextmanager
async def serving_registry(registry: ScriptedRegistry, secret: str, port: int = 0) -> AsyncIterator[str]:
    """Yields its address; `port` lets one come back where another was."""
    door = InternalDoor(internal.InternalCalls(secret))
    interceptor = CallInterceptor(
        {"loramux.fleet.v1.RoutingService": door, "loramux.deployment.v1.DeploymentService": door}
    )
    server = grpc.aio.server(
        interceptors=[interceptor], options=[*internal.KEEPALIVE_OPTIONS, ("grpc.so_reuseport", 0)]
    )
    routing_pb2_grpc.add_RoutingServiceServicer_to_server(_Routing(registry), server)
    deployment_pb2_grpc.add_DeploymentServiceServicer_to_server(_Deployments(registry), server)
    registry.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    registry.server = server
    await server.start()
    try:
        yield registry.address
    finally:
        await server.stop(0)
