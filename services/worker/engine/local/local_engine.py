"""The engine of our own: it computes in this process, on native kernels or on torch."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import torch

from services.common.errors import InvalidFieldError
from services.worker.engine.interface import (
    AdapterFiles,
    EngineCapabilities,
    EngineOutput,
    EngineRequest,
    EngineStats,
    EngineStoppedError,
)
from services.worker.engine.local.adapters.host_cache import HostCache
from services.worker.engine.local.adapters.loaded_adapter import LoadedAdapter
from services.worker.engine.local.adapters.loader import AdapterLoader
from services.worker.engine.local.adapters.slots import AdapterSlots
from services.worker.engine.local.engine_config import EngineConfig
from services.worker.engine.local.engine_loop import EngineLoop
from services.worker.engine.local.engine_parts import EngineParts, load_parts
from services.worker.engine.local.output_streams import Outbox, OutputStream
from services.worker.engine.local.schedule.block_pool import BlockPool
from services.worker.engine.local.schedule.prefill_pace import PrefillPace
from services.worker.engine.local.schedule.scheduler import Scheduler
from services.worker.engine.local.schedule.sequence import Sequence

_LOADING_THREADS = 2
_VARIANTS = (
    "alpha_pattern", "bias", "lora_bias", "modules_to_save", "rank_pattern", "trainable_token_indices", "use_dora",
    "use_rslora",
)  # fmt: skip


class LocalEngine:
    """See Engine; made by `start`, on the event loop that its methods are called from."""

    def __init__(self, config: EngineConfig, parts: EngineParts) -> None:
        base, runner, memory = parts.base, parts.runner, parts.memory
        pool = BlockPool(memory.kv_blocks, config.block_size, prefix_cache=config.prefix_cache)
        self._base = base
        self._context_length = min(base.context_length, pool.total * config.block_size)
        self._executor = ThreadPoolExecutor(
            _LOADING_THREADS,
            thread_name_prefix="adapter-load",
            # Small tensors all along; more threads would only be in the way of the engine's.
            initializer=torch.set_num_threads,
            initargs=(1,),
        )
        loader = AdapterLoader(parts.probe, runner, base.dtype, base.device, runner.prepare)
        # On a CPU it would be the same memory once more, that the bound of bytes does not see.
        host_cache_bytes = 0 if base.device.type == "cpu" else config.host_cache_bytes
        self._host_cache = HostCache(loader.load, base.device, max_bytes=host_cache_bytes)
        self._adapter_slots = config.adapter_slots
        self._slots = AdapterSlots(
            config.adapter_slots,
            self._host_cache.load,
            self._executor,
            most_bytes=loader.most_bytes,
            max_bytes=memory.adapter_bytes,
            evicted=self._host_cache.keep,
        )
        self._capabilities = EngineCapabilities(
            engine="local",
            mode=runner.mode,
            adapter_variants=_VARIANTS,
            max_lora_rank=0,
            dtype=str(base.dtype).removeprefix("torch."),
        )
        self._event_loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[None] = self._event_loop.create_future()
        self._loop = EngineLoop(
            Scheduler[LoadedAdapter](
                pool, max_sequences=config.max_sequences, prefill_tokens=config.prefill_tokens
            ),
            runner,
            Outbox(self._event_loop),
            pace=PrefillPace(least=config.block_size, most=config.prefill_tokens),
            on_failure=self._tell_failure,
        )

    @classmethod
    async def start(cls, config: EngineConfig) -> "LocalEngine":
        """Load the base model in a thread, bring it into the runner's form there, and start the engine's own.

        Raises UnsupportedModelError for a model whose attention cannot be paged, NotEnoughMemoryError where nothing is
        left for keys and values, and what transformers raises.
        """
        return cls(config, await asyncio.to_thread(load_parts, config))

    @property
    def context_length(self) -> int:
        """The longest prompt and output together: what the model takes, and the cache of keys and values holds."""
        return self._context_length

    @property
    def capabilities(self) -> EngineCapabilities:
        """See Engine.capabilities."""
        return self._capabilities

    @asynccontextmanager
    async def adapter(self, files: AdapterFiles) -> AsyncIterator[None]:
        """See Engine.adapter."""
        async with self._slots.hold(files):
            yield

    def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput]:
        """See Engine.generate. Raises InvalidFieldError at once for a request that can never run."""
        self._check(request)
        if request.adapter is not None and not self._slots.is_held(request.adapter):
            raise _not_held(request.adapter)
        return self._generate(request)

    def stats(self) -> EngineStats:
        """See Engine.stats."""
        residents, counts = self._slots.residents(), self._slots.counts
        return EngineStats(
            adapters={digest: pins for digest, (_, pins) in residents.items()},
            adapter_bytes={digest: adapter.nbytes for digest, (adapter, _) in residents.items()},
            adapter_slots=self._adapter_slots,
            adapter_requests_total=counts.requests,
            adapter_hits_total=counts.hits,
            adapter_loads_total=counts.loads,
            adapter_load_seconds_total=counts.load_seconds,
            host_cache_hits_total=self._host_cache.hits,
            **vars(self._loop.stats),
        )

    @property
    def failed(self) -> "asyncio.Future[None]":
        """See Engine.failed."""
        return self._failed

    async def stop(self) -> None:
        """See Engine.stop."""
        self._slots.close()
        await asyncio.to_thread(self._loop.stop)
        await asyncio.to_thread(self._executor.shutdown)

    async def _generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput]:
        sampling = request.sampling
        stop_ids = (
            sampling.stop_token_ids if sampling.ignore_eos else sampling.stop_token_ids | self._base.stop_ids
        )
        stream = OutputStream()
        # Here, where what is begun is ended too: an iterator that nobody asks for anything never comes to its end.
        adapter, release = self._begin(request.adapter)
        sequence = Sequence(request, adapter, stop_ids, stream)
        self._loop.submit(sequence)
        ended = False
        try:
            while not ended:
                output = await stream.take()
                ended = output.finish is not None
                yield output
        except EngineStoppedError:
            ended = True
            raise
        finally:
            if ended:
                release()
            else:
                self._loop.cancel(sequence, release)

    def _tell_failure(self) -> None:
        """On the engine's thread. On a loop that is closed nobody listens any more."""
        if not self._event_loop.is_closed():
            self._event_loop.call_soon_threadsafe(self._set_failed)

    def _set_failed(self) -> None:
        if not self._failed.done():
            self._failed.set_exception(EngineStoppedError("the engine's loop has failed"))
            self._failed.exception()  # seen, so that nobody need listen

    def _begin(self, digest: str | None) -> tuple[LoadedAdapter | None, Callable[[], None]]:
        if digest is None:
            return None, lambda: None
        begun = self._slots.begin(digest)
        if begun is None:
            raise _not_held(digest)
        return begun

    def _check(self, request: EngineRequest) -> None:
        """Refuse what would fail a whole step or wait for ever; other bounds are checked before the engine."""
        if not request.prompt:
            raise InvalidFieldError("prompt", "empty", "at least one token")
        named = {
            "prompt": request.prompt,
            "produced": request.produced,
            "logit_bias": request.sampling.logit_bias,
        }
        for name, token_ids in named.items():
            stranger = next((token for token in token_ids if not 0 <= token < self._base.vocabulary), None)
            if stranger is not None:
                raise InvalidFieldError(
                    name, stranger, f"made of token ids from 0 to {self._base.vocabulary - 1}"
                )
        least = len(request.produced) + 1
        if request.sampling.max_tokens < least:
            had = f", as {least - 1} were produced" if request.produced else ""
            raise InvalidFieldError("max_tokens", request.sampling.max_tokens, f"at least {least}{had}")
        longest = len(request.prompt) + request.sampling.max_tokens
        if longest > self._context_length:
            raise InvalidFieldError(
                "max_tokens",
                request.sampling.max_tokens,
                f"at most {self._context_length - len(request.prompt)} after a prompt of {len(request.prompt)} "
                f"tokens: both together fill at most {self._context_length}",
            )


def _not_held(digest: str) -> InvalidFieldError:
    return InvalidFieldError("adapter", digest, "the digest of an adapter that is held")
