"""Assembly of the registry: `python -m services.registry`."""

import asyncio
import sys
from pathlib import Path

from loramux.deployment.v1 import deployment_pb2_grpc
from loramux.fleet.v1 import fleet_pb2_grpc, routing_pb2_grpc
from services.common import logs
from services.common.clock import SystemClock
from services.common.database import open_database
from services.common.interceptors import InternalDoor
from services.common.internal import InternalCalls
from services.common.server import RpcServer, ServiceBinding, run_until_signalled
from services.common.templates.template_sandbox import TemplateSandbox
from services.registry.admission.adapter_admission import Admission
from services.registry.bases.base_list import BaseListError, read_base_list
from services.registry.bases.catalog import Catalog
from services.registry.bases.source_files import resolve_base
from services.registry.deployments.book import DeploymentBook
from services.registry.deployments.changes import Changes
from services.registry.deployments.operations import Deployments
from services.registry.deployments.rollout import Rollouts
from services.registry.deployments.sealing import Sealer
from services.registry.fleet.fleet import Fleet
from services.registry.fleet.load_client import WorkerClient
from services.registry.fleet.roster import Roster, keep_leases
from services.registry.fleet.route_log import Routes
from services.registry.hub_reader import HubReader
from services.registry.rpc import deployment_servicer, fleet_servicer, routing_servicer
from services.registry.rpc.deployment_servicer import DeploymentServicer
from services.registry.rpc.fleet_servicer import FleetServicer
from services.registry.rpc.routing_servicer import RoutingServicer
from services.registry.settings import RegistrySettings
from services.registry.storage.store import Store

MIGRATIONS = Path(__file__).parent / "storage" / "migrations"

_log = logs.get_logger(__name__)


async def serve(settings: RegistrySettings) -> None:
    """Run the registry until it is told to stop. Raises BaseListError."""
    hub = HubReader(settings.hub_endpoint, patience=settings.hub_patience_seconds)
    hub_token = settings.hub_token.get_secret_value()
    sealer = Sealer(settings.encryption_key_bytes())
    base_models = [
        await resolve_base(entry, hub, hub_token) for entry in read_base_list(settings.base_models_file)
    ]
    catalog = Catalog(base_models, sealer)
    for base in base_models:
        _log.info("base_model_ready", base_model=base.name, commit=base.commit, modules=len(base.modules))

    clock, routes, changes = SystemClock(), Routes(base_models), Changes()
    fleet = Fleet(catalog.by_name, routes, clock)
    dispatch = InternalCalls(settings.dispatch_secret.get_secret_value())
    engine = await open_database(settings.database_url, MIGRATIONS)
    store = Store(engine)
    book = DeploymentBook(store, routes, changes, clock)
    templates = TemplateSandbox()
    rollouts = Rollouts(
        store=store,
        book=book,
        admission=Admission(hub, templates, max_bytes=settings.max_adapter_bytes),
        fleet=fleet,
        load=WorkerClient(dispatch).load,
        base_models=catalog.by_name,
        sealer=sealer,
    )
    deployments = Deployments(
        store=store,
        book=book,
        rollouts=rollouts,
        changes=changes,
        base_models=catalog.by_name,
        sealer=sealer,
    )
    for_gateways = InternalDoor(InternalCalls(settings.gateway_secret.get_secret_value()))
    for_workers = InternalDoor(InternalCalls(settings.worker_secret.get_secret_value()))
    server = RpcServer(
        settings,
        [
            ServiceBinding(
                deployment_servicer.NAME,
                for_gateways,
                lambda server: deployment_pb2_grpc.add_DeploymentServiceServicer_to_server(
                    DeploymentServicer(catalog, fleet, deployments), server
                ),
            ),
            ServiceBinding(
                routing_servicer.NAME,
                for_gateways,
                lambda server: routing_pb2_grpc.add_RoutingServiceServicer_to_server(
                    RoutingServicer(catalog, routes, deployments.repo_extras), server
                ),
            ),
            ServiceBinding(
                fleet_servicer.NAME,
                for_workers,
                lambda server: fleet_pb2_grpc.add_FleetServiceServicer_to_server(
                    FleetServicer(catalog, fleet, deployments), server
                ),
            ),
        ],
    )

    roster = Roster(engine)
    fleet.restore(await roster.read())
    leases = asyncio.create_task(keep_leases(fleet, roster))

    async def end_streams() -> None:
        leases.cancel()
        # Who was there, for the next start.
        await roster.write(fleet.registrations())
        # Streams last for ever; the drain time is for calls that end by themselves.
        routes.end()
        changes.end()
        fleet.end_all()

    try:
        # Before anybody can ask: a gateway that comes back must not hear of half the routes.
        await deployments.resume(routes)
        await server.start()
        await server.ready()
        await run_until_signalled(server, while_draining=end_streams, failed=[leases])
    finally:
        leases.cancel()
        await rollouts.stop()
        await templates.stop()
        await book.close()
        await engine.dispose()


def main() -> int:
    """Read the settings, serve, and return the exit status."""
    settings = RegistrySettings.parse(sys.argv[1:], "python -m services.registry")
    logs.configure("registry", settings.log_level)
    try:
        asyncio.run(serve(settings))
    except BaseListError as error:
        print(f"python -m services.registry: {error}", file=sys.stderr)  # noqa: T201  # for who starts it by hand
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
