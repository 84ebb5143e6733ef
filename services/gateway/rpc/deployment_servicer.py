"""DeploymentService at the gateway: authenticates, and passes each call on to the registry as it is."""

# methods are named by grpc

import asyncio
from typing import TYPE_CHECKING, NoReturn, TypeVar

import grpc.aio

from loramux.deployment.v1 import deployment_pb2, deployment_pb2_grpc
from services.common import errors, interceptors, internal
from services.common.rpc_types import RpcContext
from services.common.shielding import task_is_cancelled
from services.gateway.accounts.auth import Authenticator
from services.gateway.upstream.failed_calls import abort_relayed, from_failed_call
from services.gateway.upstream.relayed import RelayedError

if TYPE_CHECKING:
    # A name of the stubs alone: at runtime the sync stub serves both.
    from loramux.deployment.v1.deployment_pb2_grpc import DeploymentServiceAsyncStub

NAME = deployment_pb2.DESCRIPTOR.services_by_name["DeploymentService"].full_name

_Watch = grpc.aio.UnaryStreamCall[
    deployment_pb2.WatchDeploymentRequest,
    deployment_pb2.WatchDeploymentResponse,
]
Request = TypeVar("Request")
Response = TypeVar("Response")

_RETRY_SECONDS = 1.0


class DeploymentForwarder(deployment_pb2_grpc.DeploymentServiceServicer):
    """Adds the caller's account; statuses of the registry reach the client with all their details."""

    def __init__(
        self,
        auth: Authenticator,
        calls: internal.InternalCalls,
        channel: grpc.aio.Channel,
    ) -> None:
        self._auth = auth
        self._calls = calls
        self._registry: DeploymentServiceAsyncStub = deployment_pb2_grpc.DeploymentServiceStub(channel)
        self._watches: set[_Watch] = set()

    def end_watches(self) -> None:
        """End the streams that would otherwise outlast a drain; their clients find another gateway."""
        for call in self._watches:
            call.cancel()

    async def ListBaseModels(
        self, request: deployment_pb2.ListBaseModelsRequest, context: RpcContext
    ) -> deployment_pb2.ListBaseModelsResponse:
        """Forwarded."""
        return await self._forward(self._registry.ListBaseModels, request, context)

    async def CreateDeployment(
        self, request: deployment_pb2.CreateDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.CreateDeploymentResponse:
        """Forwarded."""
        return await self._forward(self._registry.CreateDeployment, request, context)

    async def GetDeployment(
        self, request: deployment_pb2.GetDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.GetDeploymentResponse:
        """Forwarded."""
        return await self._forward(self._registry.GetDeployment, request, context)

    async def ListDeployments(
        self, request: deployment_pb2.ListDeploymentsRequest, context: RpcContext
    ) -> deployment_pb2.ListDeploymentsResponse:
        """Forwarded."""
        return await self._forward(self._registry.ListDeployments, request, context)

    async def UpdateDeployment(
        self, request: deployment_pb2.UpdateDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.UpdateDeploymentResponse:
        """Forwarded."""
        return await self._forward(self._registry.UpdateDeployment, request, context)

    async def DeleteDeployment(
        self, request: deployment_pb2.DeleteDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.DeleteDeploymentResponse:
        """Forwarded."""
        return await self._forward(self._registry.DeleteDeployment, request, context)

    async def WatchDeployment(  # type: ignore[override]  # the stubs allow generators only; see interceptors
        self, request: deployment_pb2.WatchDeploymentRequest, context: RpcContext
    ) -> None:
        """Forwarded, message by message."""
        call = self._registry.WatchDeployment(request, metadata=await self._metadata(context))
        self._watches.add(call)
        try:
            async for message in call:
                await context.write(message)
        except grpc.aio.AioRpcError as error:
            await _abort(context, error)
        except asyncio.CancelledError:
            if task_is_cancelled():
                raise
            raise errors.UnavailableError(
                "DRAINING",
                "the gateway is stopping; watch again",
                retry_after=_RETRY_SECONDS,
            ) from None
        finally:
            self._watches.discard(call)
            call.cancel()

    async def _forward(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        context: RpcContext,
    ) -> Response:
        metadata = await self._metadata(context)
        try:
            return await method(request, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            await _abort(context, error)

    async def _metadata(self, context: RpcContext) -> internal.Metadata:
        authorization = internal.metadata_of(context).get("authorization", "")
        principal = await self._auth.authenticate(authorization)
        return self._calls.metadata(request_id=interceptors.request_id(), account=principal.member())


async def _abort(context: RpcContext, error: grpc.aio.AioRpcError) -> NoReturn:
    failure = from_failed_call(
        error,
        errors.UnavailableError(
            "REGISTRY_UNREACHABLE",
            "the registry cannot be reached now",
            retry_after=_RETRY_SECONDS,
        ),
    )
    if isinstance(failure, RelayedError):
        await abort_relayed(context, failure)
    raise failure from error
