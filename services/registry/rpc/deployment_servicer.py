"""DeploymentService over gRPC: translation only. The gateway calls it, on behalf of accounts."""

import structlog

from loramux.deployment.v1 import deployment_pb2, deployment_pb2_grpc
from services.common import internal
from services.common.rpc_types import RpcContext
from services.registry.bases.catalog import Catalog
from services.registry.deployments.deployment import Deployment
from services.registry.deployments.operations import Deployments
from services.registry.deployments.request_fields import CreateRequest, UpdateRequest
from services.registry.rpc import registry_messages

NAME = deployment_pb2.DESCRIPTOR.services_by_name["DeploymentService"].full_name


class DeploymentServicer(deployment_pb2_grpc.DeploymentServiceServicer):
    """Errors are those of `Deployments` and `Catalog`; the interceptor turns them into statuses."""

    def __init__(self, catalog: Catalog, deployments: Deployments) -> None:
        self._catalog = catalog
        self._deployments = deployments

    async def ListBaseModels(
        self, request: deployment_pb2.ListBaseModelsRequest, context: RpcContext
    ) -> deployment_pb2.ListBaseModelsResponse:
        """A page of base models."""
        _account(context)
        page, token = self._catalog.page(request.page_size, request.page_token)
        return deployment_pb2.ListBaseModelsResponse(
            base_models=[registry_messages.base_model(base) for base in page], next_page_token=token
        )

    async def CreateDeployment(
        self, request: deployment_pb2.CreateDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.CreateDeploymentResponse:
        """Take a name, and begin."""
        wanted = CreateRequest(
            deployment_id=request.deployment_id,
            hub_repo=request.hub_repo,
            revision=request.revision,
            hub_token=request.hub_token,
            base_model=request.base_model,
            request_id=request.request_id,
        )
        made = await self._deployments.create(_account(context), wanted)
        return deployment_pb2.CreateDeploymentResponse(deployment=registry_messages.deployment(made))

    async def GetDeployment(
        self, request: deployment_pb2.GetDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.GetDeploymentResponse:
        """A deployment as it is."""
        found = await self._deployments.get(_account(context), request.name)
        return deployment_pb2.GetDeploymentResponse(deployment=registry_messages.deployment(found))

    async def ListDeployments(
        self, request: deployment_pb2.ListDeploymentsRequest, context: RpcContext
    ) -> deployment_pb2.ListDeploymentsResponse:
        """A page of the account's deployments."""
        page, token = await self._deployments.list(_account(context), request.page_size, request.page_token)
        return deployment_pb2.ListDeploymentsResponse(
            deployments=[registry_messages.deployment(one) for one in page], next_page_token=token
        )

    async def UpdateDeployment(
        self, request: deployment_pb2.UpdateDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.UpdateDeploymentResponse:
        """Another adapter under the same name."""
        wanted = UpdateRequest(
            hub_repo=request.hub_repo,
            revision=request.revision,
            hub_token=request.hub_token if request.HasField("hub_token") else None,
            etag=request.etag,
        )
        changed = await self._deployments.update(_account(context), request.name, wanted)
        return deployment_pb2.UpdateDeploymentResponse(deployment=registry_messages.deployment(changed))

    async def DeleteDeployment(
        self, request: deployment_pb2.DeleteDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.DeleteDeploymentResponse:
        """Free a name."""
        gone = await self._deployments.delete(_account(context), request.name, request.etag)
        return deployment_pb2.DeleteDeploymentResponse(deployment=registry_messages.deployment(gone))

    async def WatchDeployment(  # type: ignore[override]  # the stub allows generators only
        self, request: deployment_pb2.WatchDeploymentRequest, context: RpcContext
    ) -> None:
        """A deployment as it is, then each change."""

        async def show(one: Deployment) -> None:
            await context.write(
                deployment_pb2.WatchDeploymentResponse(deployment=registry_messages.deployment(one))
            )

        await self._deployments.watch(_account(context), request.name, show)


def _account(context: RpcContext) -> str:
    account = internal.account_of(context)
    structlog.contextvars.bind_contextvars(account=account)
    return account
