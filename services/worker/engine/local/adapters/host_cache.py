"""Adapters that have left the device, in host memory: coming back costs a look at the file's header, and no reading, no checks and no packing."""

import threading
from collections import OrderedDict
from collections.abc import Callable

import torch

from services.worker.engine.interface import AdapterFiles
from services.worker.engine.local.adapters.loaded_adapter import LoadedAdapter

_HOST = torch.device("cpu")


class HostCache:
    """Least recently evicted go first. A digest names contents, so what is here is never stale."""

    def __init__(
        self, load: Callable[[AdapterFiles], LoadedAdapter], device: torch.device, *, max_bytes: int
    ) -> None:
        """`load` reads an adapter from disk onto `device`; `max_bytes` of 0 keeps nothing."""
        self._load = load
        self._device = device
        self._max_bytes = max_bytes
        self._adapters: OrderedDict[str, LoadedAdapter] = OrderedDict()
        self._lock = threading.Lock()  # loads run in threads
        self.nbytes = 0
        """Of what is kept."""
        self.hits = 0
        """Since the start."""

    def load(self, files: AdapterFiles) -> LoadedAdapter:
        """An adapter on the device, from here or from disk. Raises what loading from disk raises."""
        with self._lock:
            adapter = self._adapters.pop(files.digest, None)
            if adapter is not None:
                self.hits += 1
                self.nbytes -= adapter.nbytes
        return self._load(files) if adapter is None else adapter.to(self._device)

    def keep(self, adapter: LoadedAdapter) -> None:
        """Take over an adapter that leaves the device."""
        if adapter.nbytes > self._max_bytes:
            return
        adapter = adapter.to(_HOST)
        with self._lock:
            self._adapters[adapter.digest] = adapter
            self.nbytes += adapter.nbytes
            while self.nbytes > self._max_bytes:
                _, oldest = self._adapters.popitem(last=False)
                self.nbytes -= oldest.nbytes
