"""One step on the native kernels."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from services.worker.engine.local.adapters.loaded_adapter import AdapterWeights, LoadedAdapter
from services.worker.engine.local.native import native_sampler
from services.worker.engine.local.native.decoder import NativeDecoder
from services.worker.engine.local.native.kernels import SequenceBatch
from services.worker.engine.local.native.row_owners import RowOwners
from services.worker.engine.local.sampler import Sampled, SampleRow
from services.worker.engine.local.schedule.scheduler import StepChunk


class NativeRunner:
    """Runs a NativeDecoder over batches of chunks."""

    torch_threads = 1
    """What is left to torch is small, and its threads would be in the way of the kernels'."""

    def __init__(self, decoder: NativeDecoder) -> None:
        self._decoder = decoder

    @property
    def mode(self) -> str:
        """See Runner.mode."""
        return f"native/{self._decoder.kernels.mode.name.lower()}"

    def weight(self, path: str) -> Tensor:
        """See BaseWeights.weight."""
        return self._decoder.weight(path)

    def bias(self, path: str) -> Tensor | None:
        """See BaseWeights.bias."""
        return self._decoder.bias(path)

    def embedding_scale(self) -> float:
        """See BaseWeights.embedding_scale."""
        return self._decoder.embedding_scale()

    def parts(self, path: str) -> int:
        """See BaseWeights.parts."""
        return self._decoder.parts(path)

    def prepare(self, digest: str, weights: AdapterWeights) -> LoadedAdapter:
        """See Runner.prepare."""
        embedding = None if weights.embedding is None else replace(weights.embedding, b=None)
        return LoadedAdapter(digest, AdapterWeights(embedding=embedding), self._decoder.pack(weights))

    @torch.inference_mode()
    def run(self, chunks: Sequence[StepChunk[LoadedAdapter]]) -> Tensor:
        """See Runner.run."""
        last_rows: list[int] = []
        tokens: list[int] = []
        for chunk in chunks:
            tokens.extend(chunk.sequence.tokens[chunk.start : chunk.end])
            if chunk.samples:
                last_rows.append(len(tokens) - 1)
        sequences = SequenceBatch(
            [chunk.length for chunk in chunks],
            [chunk.end for chunk in chunks],
            [chunk.sequence.blocks for chunk in chunks],
            block_size=self._decoder.block_size,
        )
        owners = RowOwners([(chunk.sequence.adapter, chunk.length) for chunk in chunks])
        hidden = self._decoder.hidden(torch.tensor(tokens), sequences, owners)
        if len(last_rows) < len(tokens):
            hidden = hidden[torch.tensor(last_rows, dtype=torch.int64)]
        return self._decoder.logits(
            hidden, RowOwners([(chunk.sequence.adapter, 1) for chunk in chunks if chunk.samples])
        )

    def sample(self, logits: Tensor, rows: Sequence[SampleRow]) -> list[Sampled | None]:
        """See Runner.sample."""
        return native_sampler.sample(self._decoder.kernels, logits, rows)
