"""FleetService over gRPC: translation only. Workers and gateways call it."""

import asyncio

from loramux.fleet.v1 import fleet_pb2, fleet_pb2_grpc
from services.common.errors import InvalidFieldError
from services.common.rpc_types import RpcContext
from services.registry.bases.catalog import Catalog
from services.registry.deployments.operations import Deployments
from services.registry.fleet.fleet import REPORT_INTERVAL, Fleet, Lease
from services.registry.fleet.route_log import Routes
from services.registry.rpc import registry_messages

NAME = fleet_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name


class FleetServicer(fleet_pb2_grpc.FleetServiceServicer):
    """Errors are those of `Catalog`, `Fleet`, `Routes` and `Deployments`; the interceptor translates them."""

    def __init__(self, catalog: Catalog, fleet: Fleet, routes: Routes, deployments: Deployments) -> None:
        self._catalog = catalog
        self._fleet = fleet
        self._routes = routes
        self._deployments = deployments

    async def GetBaseModel(
        self,
        request: fleet_pb2.GetBaseModelRequest,
        context: RpcContext,  # noqa: ARG002  # grpc's signature
    ) -> fleet_pb2.GetBaseModelResponse:
        """What a worker needs to load."""
        base = self._catalog.get(request.name)
        return fleet_pb2.GetBaseModelResponse(
            base_model=registry_messages.base_model(base), source=registry_messages.base_source(base)
        )

    async def Register(  # type: ignore[override]  # the stub allows generators only
        self, _requests: object, context: RpcContext
    ) -> None:
        """A worker's lease, for as long as the stream and the reports last."""
        first = await _read(context)
        if first is None or first.WhichOneof("message") != "registration":
            raise InvalidFieldError("message", "not a registration", "a registration at first, then reports")
        lease = self._fleet.register(registry_messages.registration_of(first.registration))
        try:
            await context.write(fleet_pb2.RegisterResponse(report_interval_ms=round(REPORT_INTERVAL * 1000)))
            reports = asyncio.create_task(_take_reports(context, lease))
            try:
                await asyncio.wait({reports, lease.ended}, return_when=asyncio.FIRST_COMPLETED)
                await (lease.ended if lease.ended.done() else reports)
            finally:
                reports.cancel()
                await asyncio.gather(reports, return_exceptions=True)
        finally:
            lease.close()

    async def WatchRoutes(  # type: ignore[override]  # the stub allows generators only
        self, _request: fleet_pb2.WatchRoutesRequest, context: RpcContext
    ) -> None:
        """Everything, then each change."""
        seen: int | None = None
        while True:
            update = await self._routes.next(seen)
            for message in registry_messages.routes_messages(update):
                await context.write(message)
            seen = update.version

    async def GetTokenizer(  # type: ignore[override]  # the stub allows generators only
        self, request: fleet_pb2.GetTokenizerRequest, context: RpcContext
    ) -> None:
        """A base's tokenizer, in pieces."""
        for piece in registry_messages.tokenizer_pieces(self._catalog.get(request.base_model)):
            await context.write(piece)

    async def GetHubToken(
        self,
        request: fleet_pb2.GetHubTokenRequest,
        context: RpcContext,  # noqa: ARG002  # grpc's signature
    ) -> fleet_pb2.GetHubTokenResponse:
        """The token that a deployment's download needs."""
        token = await self._deployments.hub_token(request.deployment_uid)
        return fleet_pb2.GetHubTokenResponse(hub_token=token)


async def _take_reports(context: RpcContext, lease: Lease) -> None:
    while (message := await _read(context)) is not None:
        if message.WhichOneof("message") != "report":
            raise InvalidFieldError("message", "not a report", "a registration at first, then reports")
        lease.report(registry_messages.report_of(message.report))


async def _read(context: RpcContext) -> fleet_pb2.RegisterRequest | None:
    """The worker's next message; None once it has sent its last."""
    message = await context.read()
    return message if isinstance(message, fleet_pb2.RegisterRequest) else None  # else grpc's EOF
