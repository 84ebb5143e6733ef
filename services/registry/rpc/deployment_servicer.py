"""DeploymentService over gRPC: translation only. The gateway calls it, on behalf of accounts."""

import structlog

from loramux.deployment.v1 import deployment_pb2, deployment_pb2_grpc
from services.common import internal
from services.common.errors import NotImplementedYetError
from services.common.interceptors import AnswerStream
from services.common.rpc_types import RpcContext
from services.registry.bases.catalog import Catalog
from services.registry.deployments.deployment import Deployment
from services.registry.deployments.operations import Deployments
from services.registry.fleet.fleet import Fleet
from services.registry.rpc import base_model_messages, deployment_value_messages

NAME = deployment_pb2.DESCRIPTOR.services_by_name["DeploymentService"].full_name


class DeploymentServicer(deployment_pb2_grpc.DeploymentServiceServicer):
    """Errors are those of `Deployments` and `Catalog`; the interceptor turns them into statuses."""

    def __init__(self, catalog: Catalog, fleet: Fleet, deployments: Deployments) -> None:
        self._catalog = catalog
        self._fleet = fleet
        self._deployments = deployments

    async def ListBaseModels(
        self, request: deployment_pb2.ListBaseModelsRequest, context: RpcContext
    ) -> deployment_pb2.ListBaseModelsResponse:
        """A page of base models."""
        _account(context)
        page, token = self._catalog.page(request.page_size, request.page_token)
        return deployment_pb2.ListBaseModelsResponse(
            base_models=[
                base_model_messages.base_model(base, self._fleet.context_length(base)) for base in page
            ],
            next_page_token=token,
        )

    async def CreateDeployment(
        self, request: deployment_pb2.CreateDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.CreateDeploymentResponse:
        """Take a name, and begin."""
        account = _account(context)
        made = await self._deployments.create(account, deployment_value_messages.create_request(request))
        return deployment_pb2.CreateDeploymentResponse(deployment=deployment_value_messages.deployment(made))

    async def GetDeployment(
        self, request: deployment_pb2.GetDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.GetDeploymentResponse:
        """A deployment as it is."""
        found = await self._deployments.get(_account(context), request.name)
        return deployment_pb2.GetDeploymentResponse(deployment=deployment_value_messages.deployment(found))

    async def ListDeployments(
        self, request: deployment_pb2.ListDeploymentsRequest, context: RpcContext
    ) -> deployment_pb2.ListDeploymentsResponse:
        """A page of the account's deployments."""
        page, token = await self._deployments.list(
            _account(context),
            deployment_value_messages.list_query(request),
            asked_size=request.page_size,
            page_token=request.page_token,
        )
        return deployment_pb2.ListDeploymentsResponse(
            deployments=[deployment_value_messages.deployment(one, in_a_list=True) for one in page],
            next_page_token=token,
        )

    async def UpdateDeployment(
        self, request: deployment_pb2.UpdateDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.UpdateDeploymentResponse:
        """Another adapter under the same name, or another token for it."""
        account = _account(context)
        wanted = deployment_value_messages.update_request(request)
        changed = await self._deployments.update(account, request.name, wanted)
        return deployment_pb2.UpdateDeploymentResponse(
            deployment=deployment_value_messages.deployment(changed)
        )

    async def DeleteDeployment(
        self, request: deployment_pb2.DeleteDeploymentRequest, context: RpcContext
    ) -> deployment_pb2.DeleteDeploymentResponse:
        """Free a name."""
        gone = await self._deployments.delete(_account(context), request.name, request.etag)
        return deployment_pb2.DeleteDeploymentResponse(deployment=deployment_value_messages.deployment(gone))

    async def WatchDeployment(  # type: ignore[override]  # the stub allows generators only
        self, request: deployment_pb2.WatchDeploymentRequest, context: RpcContext
    ) -> None:
        """A deployment as it is, then each change."""
        answer = AnswerStream(context)

        async def show(one: Deployment) -> None:
            await answer.write(
                deployment_pb2.WatchDeploymentResponse(deployment=deployment_value_messages.deployment(one))
            )

        await self._deployments.watch(_account(context), request.name, show)

    async def ListDeploymentVersions(
        self,
        request: deployment_pb2.ListDeploymentVersionsRequest,  # grpc's signature
        context: RpcContext,
    ) -> deployment_pb2.ListDeploymentVersionsResponse:
        """Not done yet."""
        _account(context)
        raise NotImplementedYetError("ListDeploymentVersions", "the history of a deployment")

    async def RollBackDeployment(
        self,
        request: deployment_pb2.RollBackDeploymentRequest,  # grpc's signature
        context: RpcContext,
    ) -> deployment_pb2.RollBackDeploymentResponse:
        """Not done yet."""
        _account(context)
        raise NotImplementedYetError("RollBackDeployment", "going back to an earlier version")


def _account(context: RpcContext) -> str:
    account = internal.account_of(context)
    structlog.contextvars.bind_contextvars(account=account)
    return account
