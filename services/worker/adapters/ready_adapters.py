"""Adapters ready to run: on disk, in the engine, and held there; one that the engine refuses leaves no files."""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from services.common import errors, logs
from services.common.adapters.version import WEIGHTS, AdapterVersion
from services.worker.adapters.adapter_store import AdapterStore
from services.worker.engine.interface import (
    Engine,
    EngineRequest,
    EngineStoppedError,
    NotFiniteError,
    Sampling,
)

_log = logs.get_logger(__name__)

_PROBE = Sampling(max_tokens=1, temperature=0.0, logprobs=0, ignore_eos=True)


class Adapters:
    """Brings adapters from the store into the engine."""

    def __init__(
        self,
        store: AdapterStore,
        engine: Engine,
        *,
        probe_prompt: Sequence[int],
        changed: Callable[[], None],
    ) -> None:
        """`probe_prompt` is token ids to try an adapter on; `changed` is called when residents may have changed."""
        self._store = store
        self._engine = engine
        self._probe_prompt = tuple(probe_prompt)
        self._changed = changed

    @asynccontextmanager
    async def hold(self, version: AdapterVersion) -> AsyncIterator[None]:
        """Keep an adapter resident while the context lasts; raises what the store and the engine raise.

        Whatever a loader raises beside what it is to raise is a defect of ours: UnavailableError ADAPTER_MEMORY_FULL
        where memory ran out, else PreconditionError ADAPTER_LOAD_FAILED, naming the adapter.
        """
        async with AsyncExitStack() as stack:
            files = await stack.enter_async_context(self._store.hold(version))
            try:
                await stack.enter_async_context(self._engine.adapter(files))
            except errors.InvalidFieldError:
                self._store.discard(version.digest)
                raise
            except EngineStoppedError:
                raise engine_stopped() from None
            except errors.ServiceError:
                raise
            except Exception as error:
                raise _load_failed(version, error) from error
            self._changed()
            yield

    async def probe(self, version: AdapterVersion) -> None:
        """Load an adapter and run one token through it.

        Raises InvalidFieldError ADAPTER_NOT_FINITE, and what `hold` raises; then nothing stays on disk.
        """
        async with self.hold(version):
            if await self._speaks(version.digest):
                return
            if not await self._speaks(None):  # then it is not the adapter's doing
                raise engine_stopped()
            self._store.discard(version.digest)
            raise errors.InvalidFieldError(
                WEIGHTS,
                "weights that make the model's output NaN or infinite",
                "finite in their effect",
                reason="ADAPTER_NOT_FINITE",
            )

    async def _speaks(self, digest: str | None) -> bool:
        """Whether one token comes out, of finite numbers. Tried twice: a step fails for all that are in it.

        Raises UnavailableError where none came out for another reason, which says nothing of the adapter.
        """
        for _ in range(2):
            try:
                return await self._speaks_now(digest)
            except NotFiniteError:
                return False
            except EngineStoppedError:
                continue
        raise engine_stopped()

    async def _speaks_now(self, digest: str | None) -> bool:
        request = EngineRequest(
            request_id="probe", account_id="", prompt=self._probe_prompt, sampling=_PROBE, adapter=digest
        )
        async with aclosing(self._engine.generate(request)) as outputs:
            logprobs = [one.logprob async for output in outputs for one in output.logprobs]
        return all(math.isfinite(one) for one in logprobs)


def _load_failed(version: AdapterVersion, error: Exception) -> errors.ServiceError:
    kind = type(error).__name__
    _log.error("adapter_load_failed", digest=version.digest, kind=kind, exc_info=error)
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":  # torch's own is a RuntimeError
        return errors.UnavailableError(
            "ADAPTER_MEMORY_FULL",
            f"the worker has no memory for adapter {version.digest[:12]} now",
            retry_after=1.0,
            metadata={"digest": version.digest},
        )
    return errors.PreconditionError(
        "ADAPTER_LOAD_FAILED",
        version.digest,
        f"the worker's engine could not load adapter {version.digest[:12]} of {version.hub_repo}: {kind}, which its log tells",
        {"digest": version.digest, "hub_repo": version.hub_repo, "kind": kind},
    )


def engine_stopped() -> errors.UnavailableError:
    """What a client is told of an EngineStoppedError."""
    return errors.UnavailableError(
        "ENGINE_STOPPED", "the worker's engine ended the request; try again", retry_after=1.0
    )
