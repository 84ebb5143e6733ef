"""The gateway's calls to the registry's RoutingService."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

import grpc
import grpc.aio

from loramux.deployment.v1 import deployment_pb2
from loramux.fleet.v1 import fleet_pb2, routing_pb2, routing_pb2_grpc
from services.common import errors, internal, logs
from services.gateway.billing.money import TokenPrice
from services.gateway.prompts.prompt_encoder import RepoExtras, TokenizerFiles
from services.gateway.routes import (
    AdapterVersion,
    BaseModel,
    Deployment,
    DeploymentState,
    Failure,
    RouteUpdate,
    Worker,
)

if TYPE_CHECKING:
    # A name of the stubs alone: at runtime the sync stub serves both.
    from loramux.fleet.v1.routing_pb2_grpc import RoutingServiceAsyncStub

_RECONNECT_SECONDS = 0.2
_EXTRAS_SECONDS = 10.0
_STATES = {
    deployment_pb2.Deployment.STATE_INITIALIZING: DeploymentState.LOADING,
    deployment_pb2.Deployment.STATE_DEPLOYING: DeploymentState.LOADING,
    deployment_pb2.Deployment.STATE_RUNNING: DeploymentState.RUNNING,
    deployment_pb2.Deployment.STATE_FAILED: DeploymentState.FAILED,
    deployment_pb2.Deployment.STATE_DELETED: DeploymentState.DELETED,
}

_log = logs.get_logger(__name__)


class RoutingClient:
    """Watches routes, and fetches tokenizers and what adapters' repos bring."""

    def __init__(self, calls: internal.InternalCalls, channel: grpc.aio.Channel) -> None:
        self._calls = calls
        self._stub: RoutingServiceAsyncStub = routing_pb2_grpc.RoutingServiceStub(channel)
        self._version: routing_pb2.TableVersion | None = None

    async def watch_routes(self, take: Callable[[RouteUpdate], None]) -> NoReturn:
        """Hand every update of the registry to `take`, whole; reconnect for ever, and go on from what is known."""
        while True:
            try:
                await self._watch_once(take)
                _log.info("routes_watch_ended")
            except grpc.aio.AioRpcError as error:
                lost = _log.error if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else _log.warning
                lost("routes_watch_lost", code=error.code().name, details=error.details())
            except Exception:  # one odd message must not end a gateway that knows its routes
                _log.exception("routes_not_taken")
                self._version = None
            # A registry that ends every watch at once must not be called in a tight loop.
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _watch_once(self, take: Callable[[RouteUpdate], None]) -> None:
        call = self._stub.WatchRoutes(
            routing_pb2.WatchRoutesRequest(resume_from=self._version),
            metadata=self._calls.metadata(),
            wait_for_ready=True,
        )
        parts: list[routing_pb2.WatchRoutesResponse] = []
        try:
            async for message in call:
                parts.append(message)
                if message.more:
                    continue
                take(_update(parts))
                self._version = message.version if message.HasField("version") else None
                parts = []
        finally:
            call.cancel()

    async def tokenizer(self, base_model: str) -> TokenizerFiles:
        """A base model's tokenizer. Raises UnavailableError when the registry does not hand it out."""
        call = self._stub.GetTokenizer(
            routing_pb2.GetTokenizerRequest(base_model=base_model),
            metadata=self._calls.metadata(),
        )
        pieces: list[routing_pb2.GetTokenizerResponse] = []
        try:
            pieces = [piece async for piece in call]
        except grpc.aio.AioRpcError as error:
            _log.warning("tokenizer_fetch_failed", code=error.code().name, details=error.details())
        if not pieces:
            raise errors.UnavailableError(
                "TOKENIZER_UNAVAILABLE",
                f"the tokenizer of {base_model} cannot be fetched from the registry now",
                retry_after=1.0,
            )
        return TokenizerFiles(
            commit=pieces[0].commit,
            chat_template=pieces[0].chat_template,
            special_tokens=dict(pieces[0].special_tokens),
            tokenizer_json=b"".join(piece.tokenizer_json for piece in pieces),
        )

    async def repo_extras(self, sha256: str) -> RepoExtras:
        """What an adapter's repo brings beside it. Raises UnavailableError when the registry does not hand it out."""
        try:
            found = await self._stub.GetRepoExtras(
                routing_pb2.GetRepoExtrasRequest(sha256=sha256),
                metadata=self._calls.metadata(),
                timeout=_EXTRAS_SECONDS,
            )
        except grpc.aio.AioRpcError as error:
            _log.warning("repo_extras_fetch_failed", code=error.code().name, details=error.details())
            raise errors.UnavailableError(
                "REPO_EXTRAS_UNAVAILABLE",
                "the chat template of the adapter cannot be fetched from the registry now",
                retry_after=1.0,
            ) from None
        return RepoExtras(
            found.extras.chat_template,
            dict(found.extras.special_tokens),
            tuple(found.extras.end_token_ids),
        )


def _update(parts: Sequence[routing_pb2.WatchRoutesResponse]) -> RouteUpdate:
    return RouteUpdate(
        snapshot=parts[0].snapshot,
        base_models=[_base_model(route.base_model) for part in parts for route in part.base_models],
        removed_base_models=[name for part in parts for name in part.removed_base_models],
        deployments=[_deployment(route) for part in parts for route in part.deployments],
        removed_deployments=[uid for part in parts for uid in part.removed_deployments],
        workers=[_worker(route) for part in parts for route in part.workers],
        removed_workers=[gone.worker_id for part in parts for gone in part.removed_workers],
        lost_workers=[
            gone.worker_id
            for part in parts
            for gone in part.removed_workers
            if gone.reason == routing_pb2.RemovedWorker.REASON_LOST
        ],
    )


def _base_model(base: deployment_pb2.BaseModel) -> BaseModel:
    return BaseModel(
        name=base.name,
        commit=base.commit,
        context_length=base.context_length,
        price=TokenPrice(
            prompt=base.price.prompt_pico_usd,
            cached_prompt=base.price.cached_prompt_pico_usd,
            completion=base.price.completion_pico_usd,
        ),
        vocabulary_size=base.vocabulary_size,
    )


def _deployment(route: routing_pb2.DeploymentRoute) -> Deployment:
    return Deployment(
        name=route.name,
        uid=route.uid,
        account=route.account,
        base_model=route.base_model,
        # A state that this gateway is too old to know is not one to serve from.
        state=_STATES.get(route.state, DeploymentState.LOADING),
        failure=Failure(reason=route.failure_reason, message=route.failure_message),
        adapter=_adapter(route.adapter) if route.HasField("adapter") else None,
        extras_sha256=route.extras_sha256,
    )


def _adapter(ref: fleet_pb2.AdapterRef) -> AdapterVersion:
    return AdapterVersion(
        digest=ref.digest,
        hub_repo=ref.hub_repo,
        commit=ref.commit,
        config_sha256=ref.config_sha256,
        weights_sha256=ref.weights_sha256,
        size_bytes=ref.size_bytes,
        deployment_uid=ref.deployment_uid,
    )


def _worker(route: routing_pb2.WorkerRoute) -> Worker:
    registration, report = route.registration, route.report
    return Worker(
        id=registration.worker_id,
        address=registration.address,
        base_model=registration.base_model,
        max_sequences=registration.max_sequences,
        resident=frozenset(report.resident_digests),
        running=report.running_sequences,
        waiting=report.waiting_sequences,
        draining=report.draining,
        context_length=registration.capabilities.context_length,
    )
