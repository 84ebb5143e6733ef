"""Which adapters are resident: loaded once for all who ask, held while in use, evicted least recently used first.

Everything here runs on the event loop; only loading itself happens in a thread.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from services.common.errors import PreconditionError
from services.common.logs import get_logger
from services.worker.engine.interface import AdapterFiles, EngineStoppedError
from services.worker.engine.local.adapters.loaded_adapter import LoadedAdapter

_log = get_logger(__name__)


@dataclass(eq=False)
class _Slot:
    """A place in memory, taken by an adapter that is resident or on its way."""

    loaded: asyncio.Future[LoadedAdapter]
    nbytes: int
    """What it takes; until it is loaded, at most."""
    pins: int = 0
    sequences: int = 0
    """That run with it: a step that has begun needs the weights to its end, whoever has let go of them."""
    yielding: bool = False
    """It is to go to somebody who waits: new requests for its adapter queue behind them."""

    @property
    def resident(self) -> LoadedAdapter | None:
        """The adapter, once it is loaded."""
        failed = not self.loaded.done() or self.loaded.cancelled() or self.loaded.exception() is not None
        return None if failed else self.loaded.result()

    @property
    def is_idle(self) -> bool:
        """Whether it may go."""
        return not self.pins and not self.sequences and self.resident is not None


@dataclass(eq=False)
class _Ticket:
    """One request that waits for room."""

    files: AdapterFiles
    granted: asyncio.Future[_Slot] = field(default_factory=asyncio.Future)
    nbytes: int | None = None
    """What its adapter takes at most; None until that is measured."""


@dataclass
class SlotCounts:
    """Since the start."""

    requests: int = 0
    hits: int = 0
    """Requests whose adapter was resident or on its way."""
    loads: int = 0
    load_seconds: float = 0.0
    """From asking for an adapter to having it, over all loads."""


class AdapterSlots:
    """Room for adapters by bytes, and by number where that is bounded too; and a queue for it in order of arrival.

    An adapter's bytes are taken before it is loaded, so that what is resident and on its way never exceeds the bound.
    While requests wait for room, some adapters in use take no new requests: as many as would make that room. It comes free
    when their running requests have ended, and so a busy adapter cannot keep a cold one out.
    """

    def __init__(
        self,
        count: int,
        load: Callable[[AdapterFiles], LoadedAdapter],
        executor: Executor,
        *,
        most_bytes: Callable[[AdapterFiles], int],
        max_bytes: int,
        evicted: Callable[[LoadedAdapter], None] = lambda _adapter: None,
    ) -> None:
        """`load` runs in `executor`; what it raises goes to all who wait for that adapter.

        count: adapters at once; 0: as many as fit max_bytes.

        `most_bytes` says, in a thread, what an adapter will take at most, and may raise what `load` does.

        `evicted` is told of every adapter that gives its place to another.
        """
        self._count = count
        self._load = load
        self._executor = executor
        self._most_bytes = most_bytes
        self._max_bytes = max_bytes
        self._evicted = evicted
        self.counts = SlotCounts()
        self._slots: OrderedDict[str, _Slot] = OrderedDict()  # least recently used first
        self._queue: list[_Ticket] = []
        self._measuring: dict[str, asyncio.Task[int]] = {}
        self._closed = False

    @asynccontextmanager
    async def hold(self, files: AdapterFiles) -> AsyncIterator[LoadedAdapter]:
        """Pin an adapter while the context lasts, loading it first where needed.

        Raises PreconditionError ADAPTER_ABOVE_WORKER_MEMORY for one that the bytes do not hold even alone, and what
        `load` does.
        """
        slot = await self._pin(files)
        try:
            # Shielded: one who gives up must not cancel the load for the others.
            yield await asyncio.shield(slot.loaded)
        finally:
            self._unpin(slot)

    def is_held(self, digest: str) -> bool:
        """Whether the adapter is loaded and pinned."""
        slot = self._slots.get(digest)
        return slot is not None and slot.pins > 0 and slot.resident is not None

    def begin(self, digest: str) -> tuple[LoadedAdapter, Callable[[], None]] | None:
        """The adapter for a sequence, if it is loaded and pinned; and what to call once no step computes the sequence.

        Until then its memory is not given to another, even where its pins are gone.
        """
        slot = self._slots.get(digest)
        adapter = slot.resident if slot is not None and slot.pins else None
        if slot is None or adapter is None:
            return None
        slot.sequences += 1

        def end() -> None:
            slot.sequences -= 1
            self._advance()

        return adapter, end

    def residents(self) -> Mapping[str, tuple[LoadedAdapter, int]]:
        """Loaded adapters and their pins, by digest."""
        return {
            digest: (adapter, slot.pins)
            for digest, slot in self._slots.items()
            if (adapter := slot.resident) is not None
        }

    def close(self) -> None:
        """End all waiting with EngineStoppedError, now and from now on, and let go of what is resident."""
        self._closed = True
        for ticket in self._queue:
            if not ticket.granted.done():
                ticket.granted.set_exception(EngineStoppedError("the engine has stopped"))
        self._queue.clear()
        self._slots.clear()

    async def _pin(self, files: AdapterFiles) -> _Slot:
        if self._closed:
            raise EngineStoppedError("the engine has stopped")
        slot = self._slots.get(files.digest)
        self.counts.requests += 1
        self.counts.hits += slot is not None
        if slot is not None and not slot.yielding:
            return self._use(files.digest, slot)
        ticket = _Ticket(files)
        self._queue.append(ticket)
        self._start_measuring(files)
        self._advance()
        try:
            return await ticket.granted
        except asyncio.CancelledError:
            granted = not ticket.granted.cancelled() and ticket.granted.exception() is None
            if granted:  # in the same moment
                self._unpin(ticket.granted.result())
            self._advance()
            raise

    def _start_measuring(self, files: AdapterFiles) -> None:
        """Once for all who ask at the same time."""
        if files.digest not in self._measuring:
            measuring = asyncio.create_task(asyncio.to_thread(self._measure, files))
            self._measuring[files.digest] = measuring
            measuring.add_done_callback(lambda measured: self._finish_measuring(files.digest, measured))

    def _finish_measuring(self, digest: str, measured: asyncio.Task[int]) -> None:
        del self._measuring[digest]
        error = None if measured.cancelled() else measured.exception()
        for ticket in [ticket for ticket in self._queue if ticket.files.digest == digest]:
            if error is None and not measured.cancelled():
                ticket.nbytes = measured.result()
            else:
                self._queue.remove(ticket)
                if not ticket.granted.done():
                    ticket.granted.set_exception(error or EngineStoppedError("the engine has stopped"))
        self._advance()

    def _measure(self, files: AdapterFiles) -> int:
        nbytes = self._most_bytes(files)
        if nbytes > self._max_bytes:
            raise PreconditionError(
                "ADAPTER_ABOVE_WORKER_MEMORY",
                files.digest,
                f"adapter {files.digest[:12]} takes up to {nbytes} bytes in memory, and the worker has {self._max_bytes} "
                "for adapters",
                {"digest": files.digest, "bytes": str(nbytes), "most_bytes": str(self._max_bytes)},
            )
        return nbytes

    def _use(self, digest: str, slot: _Slot) -> _Slot:
        slot.pins += 1
        self._slots.move_to_end(digest)
        return slot

    def _unpin(self, slot: _Slot) -> None:
        slot.pins -= 1
        self._advance()

    def _advance(self) -> None:
        """Give room to the queue's head as long as there is any, and to all who want the same adapter."""
        self._queue = [ticket for ticket in self._queue if not ticket.granted.cancelled()]
        while self._queue:
            files, nbytes = self._queue[0].files, self._queue[0].nbytes
            slot = self._slots.get(files.digest)
            if slot is None:
                if nbytes is None or not self._make_room(nbytes):
                    break
                slot = self._start_loading(files, nbytes)
            self._grant(files.digest, slot)
        self._choose_yielding()
        # Nobody who comes later is to have what these wait for.
        for digest in {ticket.files.digest for ticket in self._queue}:
            slot = self._slots.get(digest)
            if slot is not None and not slot.yielding:
                self._grant(digest, slot)

    def _grant(self, digest: str, slot: _Slot) -> None:
        """To all in the queue who want this adapter."""
        granted = [ticket for ticket in self._queue if ticket.files.digest == digest]
        self._queue = [ticket for ticket in self._queue if ticket.files.digest != digest]
        for ticket in granted:
            ticket.granted.set_result(self._use(digest, slot))

    def _make_room(self, nbytes: int) -> bool:
        """Evict until there is room for one more of `nbytes`; False where those that are held leave none."""
        held = [slot for slot in self._slots.values() if not slot.is_idle]
        if self._is_short(len(held) + 1, sum(slot.nbytes for slot in held) + nbytes):
            return False  # then nobody goes for nothing
        while self._is_short(len(self._slots) + 1, self._taken_bytes() + nbytes):
            self._evict()
        return True

    def _is_short(self, count: int, nbytes: int) -> bool:
        return bool(self._count and count > self._count) or nbytes > self._max_bytes

    def _evict(self) -> None:
        digest = next(digest for digest, slot in self._slots.items() if slot.is_idle)
        adapter = self._slots.pop(digest).resident
        assert adapter is not None
        try:
            self._evicted(adapter)
        except Exception:  # whoever waits for the place is to have it all the same
            _log.exception("evicted_adapter_not_kept", digest=digest)

    def _taken_bytes(self) -> int:
        return sum(slot.nbytes for slot in self._slots.values())

    def _choose_yielding(self) -> None:
        """Have as many yield as the adapters in the queue that are not here need, the least recently asked for first."""
        missing = {ticket.files.digest: ticket.nbytes or 0 for ticket in self._queue}
        for digest in self._slots:
            missing.pop(digest, None)
        count, nbytes = len(self._slots) + len(missing), self._taken_bytes() + sum(missing.values())
        for slot in self._slots.values():
            slot.yielding = bool(missing) and self._is_short(count, nbytes)
            count, nbytes = count - 1, nbytes - slot.nbytes

    def _start_loading(self, files: AdapterFiles, nbytes: int) -> _Slot:
        slot = _Slot(asyncio.get_running_loop().run_in_executor(self._executor, self._load, files), nbytes)
        self._slots[files.digest] = slot
        started = time.monotonic()
        slot.loaded.add_done_callback(lambda _: self._finish_loading(files.digest, slot, started))
        return slot

    def _finish_loading(self, digest: str, slot: _Slot, started: float) -> None:
        self.counts.loads += 1
        self.counts.load_seconds += time.monotonic() - started
        adapter = slot.resident
        if adapter is None:
            self._slots.pop(digest, None)
        else:
            if adapter.nbytes > slot.nbytes:
                # A defect of the estimate: what is taken from now on is right.
                _log.error("adapter_above_estimate", digest=digest, bytes=adapter.nbytes, most=slot.nbytes)
            slot.nbytes = adapter.nbytes
        self._advance()
