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

from services.common.logs import get_logger
from services.worker.engine.interface import AdapterFiles, EngineStoppedError
from services.worker.engine.local.adapters.loaded_adapter import LoadedAdapter

_log = get_logger(__name__)


@dataclass(eq=False)
class _Slot:
    """A place in memory, taken by an adapter that is resident or on its way."""

    loaded: asyncio.Future[LoadedAdapter]
    pins: int = 0
    yielding: bool = False
    """It is to go to somebody who waits: new requests for its adapter queue behind them."""

    @property
    def resident(self) -> LoadedAdapter | None:
        """The adapter, once it is loaded."""
        failed = not self.loaded.done() or self.loaded.cancelled() or self.loaded.exception() is not None
        return None if failed else self.loaded.result()


@dataclass(eq=False)
class _Ticket:
    """One request that waits for a slot."""

    files: AdapterFiles
    granted: asyncio.Future[_Slot] = field(default_factory=asyncio.Future)


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
    """A fixed number of slots, and a queue for them in order of arrival.

    While requests wait, as many adapters in use take no new requests, so that a slot comes free within the
    time that running ones take: a busy adapter cannot keep a cold one out.
    """

    def __init__(
        self,
        count: int,
        load: Callable[[AdapterFiles], LoadedAdapter],
        executor: Executor,
        *,
        max_bytes: int,
        evicted: Callable[[LoadedAdapter], None] = lambda _adapter: None,
    ) -> None:
        """`load` runs in `executor`; what it raises goes to all who wait for that adapter.

        max_bytes: of loaded adapters; where they are more, those that nobody holds go, whatever slots are left.

        `evicted` is told of every adapter that gives its place to another.
        """
        self._count = count
        self._load = load
        self._executor = executor
        self._max_bytes = max_bytes
        self._evicted = evicted
        self.counts = SlotCounts()
        self._slots: OrderedDict[str, _Slot] = OrderedDict()  # least recently used first
        self._queue: list[_Ticket] = []
        self._closed = False

    @asynccontextmanager
    async def hold(self, files: AdapterFiles) -> AsyncIterator[LoadedAdapter]:
        """Pin an adapter while the context lasts, loading it first where needed."""
        slot = await self._pin(files)
        try:
            # Shielded: one who gives up must not cancel the load for the others.
            yield await asyncio.shield(slot.loaded)
        finally:
            self._unpin(slot)

    def held(self, digest: str) -> LoadedAdapter | None:
        """The adapter, if it is loaded and pinned."""
        slot = self._slots.get(digest)
        return slot.resident if slot is not None and slot.pins else None

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
        self._advance()
        try:
            return await ticket.granted
        except asyncio.CancelledError:
            granted = not ticket.granted.cancelled() and ticket.granted.exception() is None
            if granted:  # in the same moment
                self._unpin(ticket.granted.result())
            self._advance()
            raise

    def _use(self, digest: str, slot: _Slot) -> _Slot:
        slot.pins += 1
        self._slots.move_to_end(digest)
        return slot

    def _unpin(self, slot: _Slot) -> None:
        slot.pins -= 1
        self._advance()

    def _advance(self) -> None:
        """Give slots to the queue's head as long as there are any, and to all who want the same adapter."""
        self._queue = [ticket for ticket in self._queue if not ticket.granted.cancelled()]
        while self._queue:
            files = self._queue[0].files
            slot = self._slots.get(files.digest)
            if slot is None:
                if len(self._slots) >= self._count and not self._evict():
                    break
                slot = self._start_loading(files)
            granted = [ticket for ticket in self._queue if ticket.files.digest == files.digest]
            self._queue = [ticket for ticket in self._queue if ticket.files.digest != files.digest]
            for ticket in granted:
                ticket.granted.set_result(self._use(files.digest, slot))
        self._choose_yielding()

    def _evict(self) -> bool:
        digest = next(
            (digest for digest, slot in self._slots.items() if not slot.pins and slot.resident), None
        )
        if digest is None:
            return False
        adapter = self._slots.pop(digest).resident
        assert adapter is not None
        try:
            self._evicted(adapter)
        except Exception:  # whoever waits for the place is to have it all the same
            _log.exception("evicted_adapter_not_kept", digest=digest)
        return True

    def _loaded_bytes(self) -> int:
        return sum(adapter.nbytes for slot in self._slots.values() if (adapter := slot.resident) is not None)

    def _choose_yielding(self) -> None:
        """Have one slot yield for each adapter in the queue that has none, the least recently asked for first."""
        wanted = {ticket.files.digest for ticket in self._queue}
        missing = len(wanted - self._slots.keys())
        for slot in self._slots.values():
            slot.yielding = missing > 0
            missing -= 1

    def _start_loading(self, files: AdapterFiles) -> _Slot:
        slot = _Slot(asyncio.get_running_loop().run_in_executor(self._executor, self._load, files))
        self._slots[files.digest] = slot
        started = time.monotonic()
        slot.loaded.add_done_callback(lambda loaded: self._finish_loading(files.digest, loaded, started))
        return slot

    def _finish_loading(self, digest: str, loaded: asyncio.Future[LoadedAdapter], started: float) -> None:
        self.counts.loads += 1
        self.counts.load_seconds += time.monotonic() - started
        if loaded.cancelled() or loaded.exception() is not None:
            self._slots.pop(digest, None)
        while self._loaded_bytes() > self._max_bytes and self._evict():
            pass
        self._advance()
