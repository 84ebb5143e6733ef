"""DeploymentService at the gateway: authenticates, and passes each call on to the registry as it is."""

# methods are named by grpc

import asyncio
from typing import TYPE_CHECKING, TypeVar

import grpc.aio

from loramux.deployment.v1 import deployment_pb2, deployment_pb2_grpc
from services.common import errors, interceptors, internal
from services.common.rpc_types import RpcContext
from services.common.shielding import task_is_cancelled
from services.gateway.rpc import caller
from services.gateway.upstream.failed_calls import from_failed_call

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
        calls: internal.InternalCalls,
        channel: grpc.aio.Channel,
    ) -> None:
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
        return await self._forward(self._registry.ListBaseModels, request)

    async def CreateDeployment(
        self, request: deployment_pb2.CreateDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.CreateDeploymentResponse:
        """Forwarded."""
        return await self._forward(self._registry.CreateDeployment, request)

    async def GetDeployment(
        self, request: deployment_pb2.GetDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.GetDeploymentResponse:
        """Forwarded."""
        return await self._forward(self._registry.GetDeployment, request)

    async def ListDeployments(
        self, request: deployment_pb2.ListDeploymentsRequest, context: RpcContext
    ) -> deployment_pb2.ListDeploymentsResponse:
        """Forwarded."""
        return await self._forward(self._registry.ListDeployments, request)

    async def UpdateDeployment(
        self, request: deployment_pb2.UpdateDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.UpdateDeploymentResponse:
        """Forwarded."""
        return await self._forward(self._registry.UpdateDeployment, request)

    async def DeleteDeployment(
        self, request: deployment_pb2.DeleteDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.DeleteDeploymentResponse:
        """Forwarded."""
        return await self._forward(self._registry.DeleteDeployment, request)

    async def ListDeploymentVersions(
        self, request: deployment_pb2.ListDeploymentVersionsRequest, context: RpcContext
    ) -> deployment_pb2.ListDeploymentVersionsResponse:
        """Forwarded."""
        return await self._forward(self._registry.ListDeploymentVersions, request)

    async def RollBackDeployment(
        self, request: deployment_pb2.RollBackDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.RollBackDeploymentResponse:
        """Forwarded."""
        return await self._forward(self._registry.RollBackDeployment, request)

    async def WatchDeployment(  # type: ignore[override]  # the stubs allow generators only; see interceptors
        self, request: deployment_pb2.WatchDeploymentRequest, context: RpcContext
    ) -> None:
        """Forwarded, message by message."""
        call = self._registry.WatchDeployment(request, metadata=self._metadata())
        self._watches.add(call)
        stream = interceptors.AnswerStream(context)
        try:
            async for message in call:
                await stream.write(message)
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error
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
    ) -> Response:
        try:
            return await method(request, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error

    def _metadata(self) -> internal.Metadata:
        account = caller.principal().member()
        return self._calls.metadata(request_id=interceptors.request_id(), account=account)


def _failure(error: grpc.aio.AioRpcError) -> errors.ServiceError:
    return from_failed_call(
        error,
        errors.UnavailableError(
            "REGISTRY_UNREACHABLE",
            "the registry cannot be reached now",
            retry_after=_RETRY_SECONDS,
        ),
        interceptors.request_id(),
    )
