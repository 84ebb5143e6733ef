"""The gateway's calls to the registry's DeploymentService, each for one account."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, TypeVar

import grpc.aio

from loramux.deployment.v1 import deployment_pb2, deployment_pb2_grpc
from services.common import errors, interceptors, internal
from services.common.shielding import task_is_cancelled
from services.gateway.accounts.paging import Page
from services.gateway.deployments.deployment_values import (
    BaseModelView,
    DeploymentChange,
    DeploymentQuery,
    DeploymentView,
    NewDeployment,
    PageRequest,
    VersionView,
)
from services.gateway.upstream import registry_messages as messages
from services.gateway.upstream.failed_calls import from_failed_call

if TYPE_CHECKING:
    # A name of the stubs alone: at runtime the sync stub serves both.
    from loramux.deployment.v1.deployment_pb2_grpc import DeploymentServiceAsyncStub

_Watch = grpc.aio.UnaryStreamCall[
    deployment_pb2.WatchDeploymentRequest,
    deployment_pb2.WatchDeploymentResponse,
]
Request = TypeVar("Request")
Response = TypeVar("Response")

_RETRY_SECONDS = 1.0


class DeploymentClient:
    """See services.gateway.deployments.deployment_desk.DeploymentRegistry."""

    def __init__(self, calls: internal.InternalCalls, channel: grpc.aio.Channel) -> None:
        self._calls = calls
        self._stub: DeploymentServiceAsyncStub = deployment_pb2_grpc.DeploymentServiceStub(channel)
        self._watches: set[_Watch] = set()

    def end_watches(self) -> None:
        """End the streams that would otherwise outlast a drain; their clients find another gateway."""
        for call in self._watches:
            call.cancel()

    async def list_base_models(self, account: str, page: PageRequest) -> Page[BaseModelView]:
        """Base models, by page."""
        request = deployment_pb2.ListBaseModelsRequest(page_size=page.size, page_token=page.token)
        answer = await self._call(self._stub.ListBaseModels, request, account)
        return Page([messages.base_model(one) for one in answer.base_models], answer.next_page_token)

    async def create(self, account: str, wanted: NewDeployment) -> DeploymentView:
        """A new deployment."""
        request = messages.create_request(wanted)
        answer = await self._call(self._stub.CreateDeployment, request, account)
        return messages.deployment(answer.deployment)

    async def get(self, account: str, name: str) -> DeploymentView:
        """One deployment."""
        request = deployment_pb2.GetDeploymentRequest(name=name)
        answer = await self._call(self._stub.GetDeployment, request, account)
        return messages.deployment(answer.deployment)

    async def list(self, account: str, query: DeploymentQuery, page: PageRequest) -> Page[DeploymentView]:
        """Deployments, by page."""
        request = messages.list_request(query, page)
        answer = await self._call(self._stub.ListDeployments, request, account)
        return Page([messages.deployment(one) for one in answer.deployments], answer.next_page_token)

    async def update(self, account: str, change: DeploymentChange) -> DeploymentView:
        """A changed deployment."""
        request = messages.update_request(change)
        answer = await self._call(self._stub.UpdateDeployment, request, account)
        return messages.deployment(answer.deployment)

    async def delete(self, account: str, name: str, etag: str) -> DeploymentView:
        """A deployment that is no more."""
        request = deployment_pb2.DeleteDeploymentRequest(name=name, etag=etag)
        answer = await self._call(self._stub.DeleteDeployment, request, account)
        return messages.deployment(answer.deployment)

    async def list_versions(self, account: str, name: str, page: PageRequest) -> Page[VersionView]:
        """Versions, by page."""
        request = deployment_pb2.ListDeploymentVersionsRequest(
            name=name, page_size=page.size, page_token=page.token
        )
        answer = await self._call(self._stub.ListDeploymentVersions, request, account)
        return Page([messages.version(one) for one in answer.versions], answer.next_page_token)

    async def roll_back(self, account: str, name: str, version: int, etag: str) -> DeploymentView:
        """A deployment that goes back."""
        request = deployment_pb2.RollBackDeploymentRequest(name=name, version=version, etag=etag)
        answer = await self._call(self._stub.RollBackDeployment, request, account)
        return messages.deployment(answer.deployment)

    async def watch(self, account: str, name: str) -> AsyncGenerator[DeploymentView]:
        """A deployment as it is, then each change."""
        request = deployment_pb2.WatchDeploymentRequest(name=name)
        call = self._stub.WatchDeployment(request, metadata=self._metadata(account))
        self._watches.add(call)
        try:
            async for message in call:
                yield messages.deployment(message.deployment)
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

    async def _call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        account: str,
    ) -> Response:
        try:
            return await method(request, metadata=self._metadata(account))
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error

    def _metadata(self, account: str) -> internal.Metadata:
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
