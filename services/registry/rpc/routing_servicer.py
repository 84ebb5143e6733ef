"""RoutingService over gRPC: translation only. Gateways call it."""

from collections.abc import Awaitable, Callable

from loramux.fleet.v1 import routing_pb2, routing_pb2_grpc
from services.common.interceptors import AnswerStream
from services.common.rpc_types import RpcContext
from services.registry.bases.catalog import Catalog
from services.registry.deployments.deployment import RepoExtras
from services.registry.fleet.route_log import Routes
from services.registry.rpc import base_model_messages, deployment_value_messages, route_messages

RepoExtrasBy = Callable[[str], Awaitable[RepoExtras]]
"""By digest; see `Deployments.repo_extras`."""

NAME = routing_pb2.DESCRIPTOR.services_by_name["RoutingService"].full_name


class RoutingServicer(routing_pb2_grpc.RoutingServiceServicer):
    """Errors are those of `Catalog`, `Routes` and `Deployments`; the interceptor translates them."""

    def __init__(self, catalog: Catalog, routes: Routes, extras: RepoExtrasBy) -> None:
        self._catalog = catalog
        self._routes = routes
        self._extras = extras

    async def WatchRoutes(  # type: ignore[override]  # the stub allows generators only
        self, request: routing_pb2.WatchRoutesRequest, context: RpcContext
    ) -> None:
        """Everything, or what has changed since the gateway last heard; then each change."""
        answer = AnswerStream(context)
        seen = route_messages.resume_from(request)
        while True:
            update = await self._routes.next(seen)
            for part in route_messages.route_parts(update):
                await answer.write(part)
            seen = update.version

    async def GetTokenizer(  # type: ignore[override]  # the stub allows generators only
        self, request: routing_pb2.GetTokenizerRequest, context: RpcContext
    ) -> None:
        """A base's tokenizer, in pieces."""
        answer = AnswerStream(context)
        for piece in base_model_messages.tokenizer_pieces(self._catalog.get(request.base_model)):
            await answer.write(piece)

    async def GetRepoExtras(
        self, request: routing_pb2.GetRepoExtrasRequest, context: RpcContext
    ) -> routing_pb2.GetRepoExtrasResponse:
        """What a repo brings beside the adapter."""
        extras = await self._extras(request.sha256)
        return routing_pb2.GetRepoExtrasResponse(extras=deployment_value_messages.repo_extras(extras))
