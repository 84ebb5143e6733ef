"""The choice of an engine, and how each is built from a worker's settings."""

import time
from pathlib import Path

from services.common import logs
from services.worker.base.base_files import StartRefusedError
from services.worker.engine.interface import Engine
from services.worker.settings import WorkerSettings

_log = logs.get_logger(__name__)


async def start_engine(settings: WorkerSettings, folder: Path) -> Engine:
    """The engine for the base model in `folder`, running. Raises StartRefusedError for a base that it cannot serve."""
    started = time.monotonic()
    _log.info("engine_starting", folder=str(folder), device=settings.device, dtype=settings.dtype)
    engine = await _start_local(settings, folder)
    _log.info(
        "engine_started",
        context_length=engine.context_length,
        mode=engine.capabilities.mode,
        seconds=round(time.monotonic() - started, 1),
    )
    return engine


async def _start_local(settings: WorkerSettings, folder: Path) -> Engine:
    # Seconds of import: not for --help, and not while the registry is away.
    from services.worker.engine.local.engine_config import EngineConfig  # noqa: PLC0415
    from services.worker.engine.local.local_engine import LocalEngine  # noqa: PLC0415
    from services.worker.engine.local.memory_plan import NotEnoughMemoryError  # noqa: PLC0415
    from services.worker.engine.local.model.unsupported_model import UnsupportedModelError  # noqa: PLC0415

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
        return await LocalEngine.start(config)
    except (UnsupportedModelError, NotEnoughMemoryError) as error:
        raise StartRefusedError(f"the base model cannot be served: {error}") from None
