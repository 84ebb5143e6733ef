"""What computes a step, and the choice between the forms there are."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PretrainedConfig

from services.common.logs import get_logger
from services.worker.engine.local.adapters.builder import BaseWeights
from services.worker.engine.local.adapters.loaded_adapter import AdapterWeights, LoadedAdapter
from services.worker.engine.local.model.base_weights import BaseModel
from services.worker.engine.local.model.probe import ModelProbe
from services.worker.engine.local.native.decoder import NativeDecoder
from services.worker.engine.local.native.family import why_not, why_not_native
from services.worker.engine.local.native.kernels import load_kernels
from services.worker.engine.local.native.native_runner import NativeRunner
from services.worker.engine.local.sampler import Sampled, SampleRow
from services.worker.engine.local.schedule.scheduler import StepChunk
from services.worker.engine.local.torch_form.torch_runner import TorchRunner

_log = get_logger(__name__)


class Runner(BaseWeights, Protocol):
    """A base model with its cache of keys and values, and the places where adapters apply."""

    @property
    def torch_threads(self) -> int:
        """How many threads torch itself is to use where the runner runs."""
        ...

    @property
    def mode(self) -> str:
        """How it multiplies: `native/dot`, `torch/bfloat16`."""
        ...

    def prepare(self, digest: str, weights: AdapterWeights) -> LoadedAdapter:
        """Bring an adapter's weights into the runner's form."""
        ...

    def run(self, chunks: Sequence[StepChunk[LoadedAdapter]]) -> Tensor:
        """Compute the chunks, and keep their keys and values; those of one adapter are best adjacent.

        Returns the logits [n, vocabulary] that follow the n chunks that sample, in their order.
        """
        ...

    def sample(self, logits: Tensor, rows: Sequence[SampleRow]) -> list[Sampled | None]:
        """Choose one token for each row of `logits`, as `sampler` says; None where the model's are not finite."""
        ...


def widens_bfloat16(config: PretrainedConfig, *, device: str, block_size: int) -> bool:
    """Whether a model with this config will run on kernels, which widen bfloat16 weights in registers."""
    architecture = (config.architectures or [""])[0]
    return (
        why_not(architecture, config, device, block_size) is None and load_kernels(torch.bfloat16) is not None
    )


def make_runner(
    base: BaseModel, probe: ModelProbe, *, blocks: int, block_size: int, use_kernels: bool, threads: int
) -> Runner:
    """The fastest runner for this model on this device; says which, and what is lost where it is not the native one."""
    why = "turned off" if not use_kernels else why_not_native(base, block_size)
    if why is None:
        kernels = load_kernels(base.dtype, threads=threads)
        if kernels is not None:
            _log.info("runner_chosen", runner="native", isa=kernels.isa.name, mode=kernels.mode.name)
            decoder = NativeDecoder(base, probe, kernels, blocks=blocks + 1, block_size=block_size)
            return NativeRunner(decoder)
        why = "the kernels do not compile here, or are not to be trusted"
    _log.info("runner_chosen", runner="torch", why_not_native=why)
    return TorchRunner(base, probe, blocks=blocks, block_size=block_size, threads=threads)
