"""Loads an adapter's two files: all that they change is applied exactly, or the adapter is refused."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from services.common.logs import get_logger
from services.worker.engine.interface import AdapterFiles
from services.worker.engine.local.adapters.builder import AdapterBuilder, BaseWeights
from services.worker.engine.local.adapters.config_reader import read_config
from services.worker.engine.local.adapters.loaded_adapter import AdapterWeights, LoadedAdapter
from services.worker.engine.local.adapters.module_tensors import read_tensors
from services.worker.engine.local.model.probe import ModelProbe

_log = get_logger(__name__)


@dataclass(frozen=True)
class AdapterLoader:
    """Loads adapters for one model on one device."""

    probe: ModelProbe
    base: BaseWeights
    dtype: torch.dtype
    device: torch.device
    prepare: Callable[[str, AdapterWeights], LoadedAdapter]
    """Brings an adapter's weights, by its digest, into the form that the runner takes."""

    @torch.inference_mode()
    def load(self, files: AdapterFiles) -> LoadedAdapter:
        """Read, check and convert an adapter's weights; takes as long as the disk does.

        Raises InvalidFieldError, naming what cannot be applied exactly.
        """
        config = read_config(files.folder)
        modules = read_tensors(files.folder)
        weights = AdapterBuilder(self.probe, self.base, config, self.dtype, self.device).build(modules)
        adapter = self.prepare(files.digest, weights)
        _log.info("adapter_loaded", digest=files.digest, modules=len(modules), bytes=adapter.nbytes)
        return adapter
