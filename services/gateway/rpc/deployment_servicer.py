"""DeploymentService at the gateway over gRPC: translation only."""

import contextlib

from loramux.deployment.v1 import deployment_pb2, deployment_pb2_grpc
from services.common.interceptors import AnswerStream
from services.common.rpc_types import RpcContext
from services.gateway.deployments.deployment_desk import DeploymentDesk
from services.gateway.rpc import caller
from services.gateway.rpc import deployment_messages as messages

NAME = deployment_pb2.DESCRIPTOR.services_by_name["DeploymentService"].full_name


class DeploymentServicer(deployment_pb2_grpc.DeploymentServiceServicer):
    """Errors are those of the desk; the interceptor turns them into statuses."""

    def __init__(self, desk: DeploymentDesk) -> None:
        self._desk = desk

    async def ListBaseModels(
        self, request: deployment_pb2.ListBaseModelsRequest, context: RpcContext
    ) -> deployment_pb2.ListBaseModelsResponse:
        """What adapters can be deployed on."""
        page = await self._desk.list_base_models(caller.principal(), messages.page_request(request))
        return deployment_pb2.ListBaseModelsResponse(
            base_models=map(messages.base_model_message, page.entries), next_page_token=page.next_token
        )

    async def CreateDeployment(
        self, request: deployment_pb2.CreateDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.CreateDeploymentResponse:
        """Take a name, and begin."""
        view = await self._desk.create(caller.principal(), messages.new_deployment(request))
        return deployment_pb2.CreateDeploymentResponse(deployment=messages.deployment_message(view))

    async def GetDeployment(
        self, request: deployment_pb2.GetDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.GetDeploymentResponse:
        """A deployment as it is."""
        view = await self._desk.get(caller.principal(), request.name)
        return deployment_pb2.GetDeploymentResponse(deployment=messages.deployment_message(view))

    async def ListDeployments(
        self, request: deployment_pb2.ListDeploymentsRequest, context: RpcContext
    ) -> deployment_pb2.ListDeploymentsResponse:
        """The caller's deployments."""
        page = await self._desk.list(
            caller.principal(), messages.query(request), messages.page_request(request)
        )
        return deployment_pb2.ListDeploymentsResponse(
            deployments=map(messages.deployment_message, page.entries), next_page_token=page.next_token
        )

    async def UpdateDeployment(
        self, request: deployment_pb2.UpdateDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.UpdateDeploymentResponse:
        """Another version under the same name, or other settings."""
        view = await self._desk.update(caller.principal(), messages.change(request))
        return deployment_pb2.UpdateDeploymentResponse(deployment=messages.deployment_message(view))

    async def DeleteDeployment(
        self, request: deployment_pb2.DeleteDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.DeleteDeploymentResponse:
        """Free a name."""
        view = await self._desk.delete(caller.principal(), request.name, request.etag)
        return deployment_pb2.DeleteDeploymentResponse(deployment=messages.deployment_message(view))

    async def WatchDeployment(  # type: ignore[override]  # the stubs allow generators only; see interceptors
        self, request: deployment_pb2.WatchDeploymentRequest, context: RpcContext
    ) -> None:
        """A deployment as it is, then each change."""
        stream = AnswerStream(context)
        watch = self._desk.watch(caller.principal(), request.name)
        async with contextlib.aclosing(watch) as views:
            async for view in views:
                shown = messages.deployment_message(view)
                await stream.write(deployment_pb2.WatchDeploymentResponse(deployment=shown))

    async def ListDeploymentVersions(
        self, request: deployment_pb2.ListDeploymentVersionsRequest, context: RpcContext
    ) -> deployment_pb2.ListDeploymentVersionsResponse:
        """The versions that have served under a name."""
        page = await self._desk.list_versions(
            caller.principal(), request.name, messages.page_request(request)
        )
        return deployment_pb2.ListDeploymentVersionsResponse(
            versions=map(messages.version_message, page.entries), next_page_token=page.next_token
        )

    async def RollBackDeployment(
        self, request: deployment_pb2.RollBackDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.RollBackDeploymentResponse:
        """Put an earlier version back."""
        view = await self._desk.roll_back(caller.principal(), request.name, request.version, request.etag)
        return deployment_pb2.RollBackDeploymentResponse(deployment=messages.deployment_message(view))
