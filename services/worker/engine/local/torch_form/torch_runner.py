"""One step in torch: a batch of chunks through transformers' own model code, in one forward."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from services.worker.engine.local import sampler
from services.worker.engine.local.adapters.loaded_adapter import AdapterWeights, LoadedAdapter
from services.worker.engine.local.model.base_weights import BaseModel
from services.worker.engine.local.model.probe import ModelProbe, embedding_scale, linear_bias, linear_weight
from services.worker.engine.local.sampler import Sampled, SampleRow
from services.worker.engine.local.schedule.scheduler import StepChunk
from services.worker.engine.local.torch_form.kv_cache import KvCache
from services.worker.engine.local.torch_form.replaced_modules import ReplacedModules
from services.worker.engine.local.torch_form.torch_attention import PagedAttention
from services.worker.engine.local.torch_form.torch_lora import LoraBatch, LoraModules


class TorchRunner:
    """Runs any model that keeps to transformers' interfaces, on any device. The reference for what is faster."""

    def __init__(
        self, base: BaseModel, probe: ModelProbe, *, blocks: int, block_size: int, threads: int
    ) -> None:
        self.torch_threads = threads
        self._base = base
        self._probe = probe
        embedding: Any = base.model.get_input_embeddings()
        self._embedding = embedding
        self._lora = LoraModules(probe.linears)
        self._replaced = ReplacedModules(probe, embedding)
        self._cache = KvCache(
            probe.kv_shapes, blocks=blocks, block_size=block_size, dtype=base.dtype, device=base.device
        )

    @property
    def mode(self) -> str:
        """See Runner.mode."""
        return f"torch/{str(self._base.dtype).removeprefix('torch.')}"

    def weight(self, path: str) -> Tensor:
        """See BaseWeights.weight."""
        if path == self._probe.embedding:
            weight: Tensor = self._embedding.weight
            return weight
        return linear_weight(self._probe.linears[path].module)

    def bias(self, path: str) -> Tensor | None:
        """See BaseWeights.bias."""
        return linear_bias(self._probe.linears[path].module)

    def embedding_scale(self) -> float:
        """See BaseWeights.embedding_scale."""
        return embedding_scale(self._embedding)

    def parts(self, path: str) -> int:  # noqa: ARG002  # none is divided
        """See BaseWeights.parts."""
        return 1

    def prepare(self, digest: str, weights: AdapterWeights) -> LoadedAdapter:
        """See Runner.prepare."""
        return LoadedAdapter(digest, weights)

    @torch.inference_mode()
    def run(self, chunks: Sequence[StepChunk[LoadedAdapter]]) -> Tensor:
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
        with self._lora.applying(adapters), self._replaced.applying(adapters):
            output = self._base.model(
                input_ids=self._tensor(tokens).unsqueeze(0),
                position_ids=self._tensor(positions).unsqueeze(0),
                logits_to_keep=self._tensor(sampled),
                use_cache=False,
                paging=PagedAttention(self._cache, chunks, self._base.device),
            )
        logits: Tensor = output.logits[0]
        return logits

    def sample(self, logits: Tensor, rows: Sequence[SampleRow]) -> list[Sampled | None]:
        """See Runner.sample."""
        return sampler.sample(logits, rows)

    def _tensor(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._base.device)
