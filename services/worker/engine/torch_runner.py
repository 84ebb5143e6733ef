"""One step in torch: a batch of chunks through transformers' own model code, in one forward."""

from collections.abc import Sequence

import torch
from torch import Tensor

from services.worker.engine import sampler
from services.worker.engine.attention import PagedAttention
from services.worker.engine.kv_cache import KvCache
from services.worker.engine.lora import LoraBatch, LoraModules
from services.worker.engine.model import BaseModel
from services.worker.engine.probe import ModelProbe
from services.worker.engine.scheduler import Chunk


class TorchRunner:
    """Runs any model that keeps to transformers' interfaces, on any device. The reference for what is faster."""

    def __init__(self, base: BaseModel, probe: ModelProbe, *, blocks: int, block_size: int) -> None:
        self._base = base
        self._lora = LoraModules(probe.linears)
        self._cache = KvCache(
            probe.kv_shapes, blocks=blocks, block_size=block_size, dtype=base.dtype, device=base.device
        )

    @property
    def pack(self) -> None:
        """See Runner.pack."""
        return

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> Tensor:
        """See Runner.run."""
        tokens: list[int] = []
        positions: list[int] = []
        sampled: list[int] = []
        for chunk in chunks:
            tokens.extend(chunk.sequence.tokens[chunk.start : chunk.end])
            positions.extend(range(chunk.start, chunk.end))
            if chunk.samples:
                sampled.append(len(tokens) - 1)
        adapters = LoraBatch(
            [chunk.sequence.adapter for chunk in chunks for _ in range(chunk.length)],
            [chunk.sequence.adapter for chunk in chunks if chunk.samples],
            self._base.device,
        )
        with self._lora.applying(adapters):
            output = self._base.model(
                input_ids=self._tensor(tokens).unsqueeze(0),
                position_ids=self._tensor(positions).unsqueeze(0),
                logits_to_keep=self._tensor(sampled),
                use_cache=False,
                paging=PagedAttention(self._cache, chunks, self._base.device),
            )
        logits: Tensor = output.logits[0]
        return logits

    def likeliest(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """See sampler.Likeliest."""
        return sampler.likeliest(logits)

    def _tensor(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._base.device)
