"""FleetService over gRPC: translation only. Workers call it."""

import asyncio

import structlog

from loramux.fleet.v1 import fleet_pb2, fleet_pb2_grpc
from services.common.errors import InvalidFieldError
from services.common.interceptors import AnswerStream
from services.common.rpc_types import RpcContext
from services.registry.bases.catalog import Catalog
from services.registry.deployments.operations import Deployments
from services.registry.fleet.fleet import REPORT_INTERVAL, Fleet, Lease
from services.registry.rpc import base_model_messages, lease_messages

NAME = fleet_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name


class FleetServicer(fleet_pb2_grpc.FleetServiceServicer):
    """Errors are those of `Catalog`, `Fleet` and `Deployments`; the interceptor translates them."""

    def __init__(self, catalog: Catalog, fleet: Fleet, deployments: Deployments) -> None:
        self._catalog = catalog
        self._fleet = fleet
        self._deployments = deployments

    async def GetBaseModel(
        self,
        request: fleet_pb2.GetBaseModelRequest,
        context: RpcContext,  # grpc's signature
    ) -> fleet_pb2.GetBaseModelResponse:
        """What a worker needs to load."""
        base = self._catalog.get(request.name)
        return fleet_pb2.GetBaseModelResponse(
            base_model=base_model_messages.base_model(base), source=base_model_messages.base_source(base)
        )

    async def Register(  # type: ignore[override]  # the stub allows generators only
        self, _requests: object, context: RpcContext
    ) -> None:
        """A worker's lease, for as long as the stream and the reports last."""
        first = await _read(context)
        if first is None or first.WhichOneof("message") != "registration":
            raise InvalidFieldError("message", "not a registration", "a registration at first, then reports")
        lease = self._fleet.register(lease_messages.registration_of(first.registration))
        try:
            interval = fleet_pb2.RegisterResponse(report_interval_ms=round(REPORT_INTERVAL * 1000))
            await AnswerStream(context).write(interval)
            reports = asyncio.create_task(_take_reports(context, lease))
            try:
                await asyncio.wait({reports, lease.ended}, return_when=asyncio.FIRST_COMPLETED)
                await (lease.ended if lease.ended.done() else reports)
            finally:
                reports.cancel()
                await asyncio.gather(reports, return_exceptions=True)
        finally:
            lease.close()

    async def GetHubToken(
        self,
        request: fleet_pb2.GetHubTokenRequest,
        context: RpcContext,
    ) -> fleet_pb2.GetHubTokenResponse:
        """The token that the download of one version needs."""
        # To the line that says who was given it.
        structlog.contextvars.bind_contextvars(peer=context.peer())
        token = await self._deployments.hub_token(request.deployment_uid, request.adapter_digest)
        return fleet_pb2.GetHubTokenResponse(hub_token=token)


async def _take_reports(context: RpcContext, lease: Lease) -> None:
    while (message := await _read(context)) is not None:
        match message.WhichOneof("message"):
            case "report":
                lease.report(lease_messages.report_of(message.report))
            case None:  # what a newer worker says, and this registry does not know
                pass
            case _:
                raise InvalidFieldError("message", "not a report", "a registration at first, then reports")


async def _read(context: RpcContext) -> fleet_pb2.RegisterRequest | None:
    """The worker's next message; None once it has sent its last."""
    message = await context.read()
    return message if isinstance(message, fleet_pb2.RegisterRequest) else None  # else grpc's EOF
