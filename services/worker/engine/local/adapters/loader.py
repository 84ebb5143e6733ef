"""Loads an adapter's two files: all that they change is applied exactly, or the adapter is refused."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from services.common.adapters import config as peft_config
from services.common.adapters.config import AdapterConfig
from services.common.adapters.refusals import CONFIG, config_invalid
from services.common.adapters.targets import BaseModules
from services.common.logs import get_logger
from services.worker.engine.interface import AdapterFiles
from services.worker.engine.local.adapters.builder import AdapterBuilder, BaseWeights
from services.worker.engine.local.adapters.loaded_adapter import AdapterWeights, LoadedAdapter
from services.worker.engine.local.adapters.loaded_size import most_bytes
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

    def most_bytes(self, files: AdapterFiles) -> int:
        """What the adapter takes at most once it is loaded. Raises InvalidFieldError as `load` does."""
        return most_bytes(
            files.folder, read_config(files.folder, self.probe.adaptable), self.dtype, self.base.parts
        )

    @torch.inference_mode()
    def load(self, files: AdapterFiles) -> LoadedAdapter:
        """Read, check and convert an adapter's weights; takes as long as the disk does.

        Raises InvalidFieldError, naming what cannot be applied exactly.
        """
        config = read_config(files.folder, self.probe.adaptable)
        modules = read_tensors(files.folder)
        weights = AdapterBuilder(self.probe, self.base, config, self.dtype, self.device).build(modules)
        adapter = self.prepare(files.digest, weights)
        _log.info("adapter_loaded", digest=files.digest, modules=len(modules), bytes=adapter.nbytes)
        return adapter


def read_config(folder: Path, base: BaseModules) -> AdapterConfig:
    """An adapter's config, for a base with these modules. Raises InvalidFieldError."""
    try:
        with (folder / CONFIG).open("rb") as file:
            data = file.read(peft_config.MAX_BYTES + 1)
    except OSError as error:
        raise config_invalid("", str(error), "a file that can be read") from None
    return peft_config.parse_config(data, base)
