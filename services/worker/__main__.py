"""The worker process: one base model on one device, behind WorkerService. `python -m services.worker --help`."""

import asyncio
import gc
import sys
import time
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from loramux.fleet.v1 import fleet_pb2, fleet_pb2_grpc
from loramux.worker.v1 import worker_pb2, worker_pb2_grpc
from services.common import internal, logs
from services.common.hub import HubClient
from services.common.server import RpcServer, ServiceBinding, run_until_signalled
from services.worker.adapters.adapter_store import AdapterStore, FolderInUseError
from services.worker.adapters.ready_adapters import Adapters
from services.worker.base.base_files import StartRefusedError, base_folder
from services.worker.generator import Generator
from services.worker.lease_client import Lease, Load
from services.worker.metrics import serve_metrics
from services.worker.registry_client import RegistryClient
from services.worker.settings import WorkerSettings
from services.worker.worker_servicer import WorkerServicer

if TYPE_CHECKING:
    from services.worker.engine.local.local_engine import TorchEngine

_PROBE_TEXT = "Hello"

_log = logs.get_logger(__name__)


async def serve(settings: WorkerSettings) -> None:
    """Assemble the worker, serve until signalled, drain, and free everything.

    Raises StartRefusedError or FolderInUseError when it cannot start.
    """
    calls = internal.InternalCalls(settings.internal_secret.get_secret_value())
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
        engine = await _start_engine(settings, folder)
        stack.push_async_callback(engine.stop)
        if settings.metrics_address:
            stack.push_async_callback(serve_metrics(settings.metrics_address, engine).close)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

        def load() -> Load:
            stats = engine.stats()
            return Load(tuple(stats.adapters), stats.running, stats.waiting)

        lease = Lease(fleet, calls, load)
        adapters = Adapters(
            store,
            engine,
            probe_prompt=tokenizer.encode(_PROBE_TEXT).ids or [0],
            changed=lease.residents_changed,
        )
        generator = Generator(
            engine, adapters, tokenizer, max_requests=settings.max_sequences + settings.max_waiting
        )
        server = RpcServer(settings, [_binding(WorkerServicer(generator, adapters, engine))], calls=calls)
        await server.start()
        await server.ready()
        # Collections look at what requests make from now on, and not at all of torch and transformers each time.
        gc.collect()
        gc.freeze()
        leased = lease.start(
            fleet_pb2.WorkerRegistration(
                worker_id=uuid.uuid4().hex,
                address=server.address,
                base_model=settings.base_model,
                base_commit=base.commit,
                max_sequences=settings.max_sequences,
                adapter_slots=settings.adapter_slots,
            )
        )
        stack.push_async_callback(lease.close)

        async def refuse_new() -> None:
            generator.drain()
            await lease.drain()

        await run_until_signalled(server, while_draining=refuse_new, failed=[leased, engine.failed])


async def _start_engine(settings: WorkerSettings, folder: Path) -> "TorchEngine":
    started = time.monotonic()
    _log.info("engine_starting", folder=str(folder), device=settings.device, dtype=settings.dtype)
    # Seconds of import: not for --help, and not while the registry is away.
    from services.worker.engine.local.engine_config import EngineConfig  # noqa: PLC0415
    from services.worker.engine.local.local_engine import TorchEngine  # noqa: PLC0415
    from services.worker.engine.local.torch_form.torch_attention import UnsupportedModelError  # noqa: PLC0415

    config = EngineConfig(
        base_folder=folder,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
        kernels=settings.kernels,
        adapter_slots=settings.adapter_slots,
        adapter_bytes=settings.adapter_bytes,
        host_cache_bytes=settings.host_cache_bytes,
        prefix_cache=settings.prefix_cache,
        max_sequences=settings.max_sequences,
        kv_tokens=settings.kv_tokens,
        prefill_tokens=settings.prefill_tokens,
    )
    try:
        engine = await TorchEngine.start(config)
    except UnsupportedModelError as error:
        raise StartRefusedError(f"the base model cannot be served: {error}") from None
    _log.info(
        "engine_started",
        context_length=engine.context_length,
        seconds=round(time.monotonic() - started, 1),
    )
    return engine


def _binding(servicer: WorkerServicer) -> ServiceBinding:
    return ServiceBinding(
        worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name,
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
