"""Assembly of the gateway: `python -m services.gateway`."""

import asyncio
import contextlib
import hmac
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from loramux.account.v1 import account_pb2_grpc
from loramux.deployment.v1 import deployment_pb2_grpc
from loramux.inference.v1 import inference_pb2_grpc
from services.common import logs
from services.common.clock import Clock, SystemClock
from services.common.database import open_database
from services.common.internal import InternalCalls
from services.common.server import RpcServer, ServiceBinding, run_until_signalled
from services.common.templates.template_sandbox import TemplateSandbox
from services.gateway.accounts.account_desk import AccountDesk
from services.gateway.accounts.accounts import Accounts
from services.gateway.accounts.auth import Authenticator
from services.gateway.accounts.keys import Keys
from services.gateway.admission import Admissions
from services.gateway.billing.ledger import Ledger
from services.gateway.billing.prices import PriceBook
from services.gateway.billing.usage import UsageRecords
from services.gateway.deployments.deployment_desk import DeploymentDesk
from services.gateway.generate import Generate
from services.gateway.limits.limiter import Limits
from services.gateway.limits.memory_limiter import MemoryLimiter
from services.gateway.prompts.tokenizer_cache import ExtrasCache, TokenizerCache
from services.gateway.routes import RouteTable, RouteUpdate
from services.gateway.rpc import account_servicer, deployment_servicer, inference_servicer
from services.gateway.rpc.account_servicer import AccountServicer
from services.gateway.rpc.caller import KeyDoor
from services.gateway.rpc.deployment_servicer import DeploymentServicer
from services.gateway.rpc.inference_servicer import InferenceServicer
from services.gateway.settings import GatewaySettings
from services.gateway.storage.transactions import Transactions
from services.gateway.upstream.deployment_client import DeploymentClient
from services.gateway.upstream.routing_client import RoutingClient
from services.gateway.upstream.worker_client import WorkerClient

MIGRATIONS = Path(__file__).parent / "storage" / "migrations"

# How long the start waits for the registry: a gateway that knows routes and tokenizers is of more use, and can then
# do without it. One whose registry is away serves anyway, and learns later.
_FIRST_ROUTES_SECONDS = 5.0

_log = logs.get_logger(__name__)


@dataclass(frozen=True)
class Gateway:
    """A gateway that serves."""

    server: RpcServer
    deployments: DeploymentClient
    admissions: Admissions
    drain_seconds: float
    failed: "asyncio.Future[None]"
    """Gets the exception of a background part that has ended, without which the gateway is of no use."""

    async def while_draining(self) -> None:
        """End the streams that would outlast the drain, and know what is cut at its end."""
        self.deployments.end_watches()
        self.admissions.cut_after(self.drain_seconds)


@asynccontextmanager
async def running(settings: GatewaySettings, clock: Clock) -> AsyncIterator[Gateway]:
    """A gateway for as long as the context lasts; leaving it stops the server and closes everything."""
    defaults = Limits(
        max_in_flight=settings.max_in_flight,
        requests_per_minute=settings.requests_per_minute,
        tokens_per_minute=settings.tokens_per_minute,
    )
    async with AsyncExitStack() as stack:
        engine = await open_database(settings.database_url, MIGRATIONS)
        stack.push_async_callback(engine.dispose)
        transactions = Transactions(engine)
        accounts, keys = Accounts(transactions, clock), Keys(transactions, clock, _minting_key(settings))
        ledger, records = Ledger(transactions, clock), UsageRecords(transactions)
        auth = Authenticator(keys, settings.operator_key_sha256, clock)

        calls = InternalCalls(settings.gateway_secret.get_secret_value())
        registry = await stack.enter_async_context(calls.channel(settings.registry_address))
        routing = RoutingClient(calls, registry)
        routes = RouteTable()
        templates = TemplateSandbox()
        stack.push_async_callback(templates.stop)
        tokenizers = TokenizerCache(routing.tokenizer, templates)
        stack.push_async_callback(tokenizers.stop)
        extras = ExtrasCache(routing.repo_extras)
        stack.push_async_callback(extras.stop)
        workers = WorkerClient(InternalCalls(settings.dispatch_secret.get_secret_value()))
        stack.push_async_callback(workers.stop)

        admissions = Admissions(MemoryLimiter(clock), ledger, PriceBook(transactions, clock), clock)
        generate = Generate(
            routes=routes,
            tokenizers=tokenizers,
            extras=extras,
            admissions=admissions,
            workers=workers,
            limits=defaults,
            clock=clock,
        )
        deployments = DeploymentClient(calls, registry)
        server = RpcServer(
            settings,
            _bindings(
                KeyDoor(auth),
                InferenceServicer(generate),
                DeploymentServicer(DeploymentDesk(deployments)),
                AccountServicer(
                    AccountDesk(
                        auth=auth,
                        accounts=accounts,
                        keys=keys,
                        ledger=ledger,
                        records=records,
                        defaults=defaults,
                    )
                ),
            ),
        )

        def take(update: RouteUpdate) -> None:
            routes.apply(update)
            workers.cut(update.lost_workers)
            workers.keep(worker.id for worker in routes.workers())
            for base in update.base_models:
                tokenizers.prefetch(base)
            for deployment in update.deployments:
                extras.prefetch(deployment.extras_sha256)

        failed = await stack.enter_async_context(
            _background(
                routing.watch_routes(take),
                admissions.keep(),
                admissions.close_abandoned_for_ever(),
            ),
        )
        stack.push_async_callback(admissions.idle)
        await server.start()
        stack.push_async_callback(server.stop)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_learn(routes, tokenizers), _FIRST_ROUTES_SECONDS)
        await server.ready()
        yield Gateway(
            server=server,
            deployments=deployments,
            admissions=admissions,
            drain_seconds=settings.drain_seconds,
            failed=failed,
        )


async def serve(settings: GatewaySettings) -> None:
    """Run the gateway until it is told to stop."""
    async with running(settings, SystemClock()) as gateway:
        await run_until_signalled(
            gateway.server,
            while_draining=gateway.while_draining,
            failed=[gateway.failed],
        )


def _minting_key(settings: GatewaySettings) -> bytes:
    """For secrets of keys that a repeated call must find again; apart from what it is made of by its label."""
    return hmac.digest(settings.gateway_secret.get_secret_value().encode(), b"loramux minting", "sha256")


async def _learn(routes: RouteTable, tokenizers: TokenizerCache) -> None:
    await routes.known()
    encoders = [tokenizers.encoder(base) for base in routes.base_models()]
    # What cannot be fetched is fetched again by the first request that needs it.
    await asyncio.gather(*encoders, return_exceptions=True)


@asynccontextmanager
async def _background(*parts: Coroutine[None, None, NoReturn]) -> AsyncIterator["asyncio.Future[None]"]:
    """Run parts beside the server; yields a future that gets the exception of the first to end."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def note(task: "asyncio.Task[NoReturn]") -> None:
        if not task.cancelled() and not failed.done():
            failed.set_exception(task.exception() or AssertionError("a background part has ended"))

    tasks = [asyncio.create_task(part) for part in parts]
    for task in tasks:
        task.add_done_callback(note)
    try:
        yield failed
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not failed.done():
            failed.cancel()


def _bindings(
    door: KeyDoor,
    inference: InferenceServicer,
    deployments: DeploymentServicer,
    accounts: AccountServicer,
) -> list[ServiceBinding]:
    return [
        ServiceBinding(
            inference_servicer.NAME,
            door,
            lambda server: inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, server),
        ),
        ServiceBinding(
            deployment_servicer.NAME,
            door,
            lambda server: deployment_pb2_grpc.add_DeploymentServiceServicer_to_server(deployments, server),
        ),
        ServiceBinding(
            account_servicer.NAME,
            door,
            lambda server: account_pb2_grpc.add_AccountServiceServicer_to_server(accounts, server),
        ),
    ]


def main() -> int:
    """Read the settings, serve, and return the exit status."""
    settings = GatewaySettings.parse(sys.argv[1:], "python -m services.gateway")
    logs.configure("gateway", settings.log_level)
    asyncio.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
