"""The worker process: one base model on one device, behind WorkerService. `python -m services.worker --help`."""

import asyncio
import gc
import sys
import uuid
from contextlib import AsyncExitStack

from tokenizers import Tokenizer

from loramux.fleet.v1 import fleet_pb2, fleet_pb2_grpc
from loramux.worker.v1 import worker_pb2, worker_pb2_grpc
from services.common import internal, logs
from services.common.hub import HubClient
from services.common.interceptors import InternalDoor
from services.common.server import RpcServer, ServiceBinding, run_until_signalled
from services.worker.adapters.adapter_store import AdapterStore
from services.worker.adapters.ready_adapters import Adapters
from services.worker.adapters.store_folder import FolderInUseError
from services.worker.base.base_files import StartRefusedError, base_folder
from services.worker.engine.choice import start_engine
from services.worker.engine.interface import Engine
from services.worker.generator import Generator
from services.worker.lease_client import Lease, Load
from services.worker.metrics import serve_metrics
from services.worker.registry_client import RegistryClient
from services.worker.settings import WorkerSettings
from services.worker.text.token_texts import TokenTexts
from services.worker.text.vocabulary import Vocabulary
from services.worker.worker_servicer import WorkerServicer

_PROBE_TEXT = "Hello"

_log = logs.get_logger(__name__)


async def serve(settings: WorkerSettings) -> None:
    """Assemble the worker, serve until signalled, drain, and free everything.

    Raises StartRefusedError or FolderInUseError when it cannot start.
    """
    calls = internal.InternalCalls(settings.worker_secret.get_secret_value())
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(calls.channel(settings.registry_address))
        fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        registry = RegistryClient(fleet, calls)
        _log.info("starting", base_model=settings.base_model, registry=settings.registry_address)
        base = await registry.base_model(settings.base_model)

        hub = HubClient(settings.hub_endpoint)
        store = AdapterStore(
            settings.cache_dir / "adapters", hub, registry.hub_token, quota_bytes=settings.cache_bytes
        )
        stack.push_async_callback(store.close)
        folder = await base_folder(
            base, hub, settings.cache_dir / "bases", token=settings.hub_token.get_secret_value()
        )
        engine = await start_engine(settings, folder)
        stack.push_async_callback(engine.stop)
        if settings.metrics_address:
            stack.push_async_callback(serve_metrics(settings.metrics_address, engine).close)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

        def load() -> Load:
            stats = engine.stats()
            return Load(
                residents=tuple(stats.adapters),
                running=stats.running,
                waiting=stats.waiting,
                kv_blocks=stats.kv_blocks,
                kv_blocks_held=stats.kv_blocks_held,
                adapter_bytes=sum(stats.adapter_bytes.values()),
            )

        lease = Lease(fleet, calls, load)
        adapters = Adapters(
            store,
            engine,
            probe_prompt=tokenizer.encode(_PROBE_TEXT).ids or [0],
            changed=lease.residents_changed,
        )
        generator = Generator(
            engine,
            adapters,
            Vocabulary(tokenizer),
            max_requests=settings.max_sequences + settings.max_waiting,
        )
        door = InternalDoor(internal.InternalCalls(settings.dispatch_secret.get_secret_value()))
        texts = TokenTexts(tokenizer)
        servicer = WorkerServicer(generator, adapters, engine, texts)
        server = RpcServer(settings, [_binding(servicer, door)])
        await server.start()
        await server.ready()
        # Collections look at what requests make from now on, and not at all of torch and transformers each time.
        gc.collect()
        gc.freeze()
        leased = lease.start(_registration(settings, engine, address=server.address, base_commit=base.commit))
        stack.push_async_callback(lease.close)

        async def refuse_new() -> None:
            generator.drain()
            await lease.drain()

        await run_until_signalled(server, while_draining=refuse_new, failed=[leased, engine.failed])


def _registration(
    settings: WorkerSettings, engine: Engine, *, address: str, base_commit: str
) -> fleet_pb2.WorkerRegistration:
    capabilities = engine.capabilities
    return fleet_pb2.WorkerRegistration(
        worker_id=uuid.uuid4().hex,
        address=address,
        base_model=settings.base_model,
        base_commit=base_commit,
        max_sequences=settings.max_sequences,
        adapter_slots=settings.adapter_slots,
        capabilities=fleet_pb2.Capabilities(
            engine=capabilities.engine,
            mode=capabilities.mode,
            adapter_variants=capabilities.adapter_variants,
            max_lora_rank=capabilities.max_lora_rank,
            context_length=engine.context_length,
            dtype=capabilities.dtype,
        ),
    )


def _binding(servicer: WorkerServicer, door: InternalDoor) -> ServiceBinding:
    return ServiceBinding(
        worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name,
        door,
        lambda server: worker_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, server),
    )


def main() -> int:
    """Run the worker; the exit status is 0 after a drain, 1 when it could not start."""
    settings = WorkerSettings.parse(sys.argv[1:], "python -m services.worker")
    logs.configure("worker", settings.log_level)
    try:
        asyncio.run(serve(settings))
    except (StartRefusedError, FolderInUseError) as error:
        _log.error("start_refused", message=str(error))  # not a defect: no traceback
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
