"""One step on the native kernels."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from services.worker.engine.adapter import LoraPair
from services.worker.engine.kernels import LoraRuns, PackedAdapter, SequenceBatch, argmax
from services.worker.engine.native_decoder import NativeDecoder
from services.worker.engine.scheduler import Chunk


class NativeRunner:
    """Runs a NativeDecoder over batches of chunks."""

    def __init__(self, decoder: NativeDecoder) -> None:
        self._decoder = decoder

    def pack(self, pairs: Mapping[str, LoraPair]) -> PackedAdapter:
        """See Runner.pack."""
        return self._decoder.pack(pairs)

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> Tensor:
        """See Runner.run."""
        # Rows of one adapter lie together, so that its weights are read once a layer.
        order = sorted(range(len(chunks)), key=lambda place: _digest(chunks[place]))
        batch = [chunks[place] for place in order]
        sampling = [place for place in order if chunks[place].samples]
        last_rows: list[int] = []
        tokens: list[int] = []
        for chunk in batch:
            tokens.extend(chunk.sequence.tokens[chunk.start : chunk.end])
            if chunk.samples:
                last_rows.append(len(tokens) - 1)
        sequences = SequenceBatch(
            [chunk.length for chunk in batch],
            [chunk.end for chunk in batch],
            [chunk.sequence.blocks for chunk in batch],
            block_size=self._decoder.block_size,
        )
        hidden = self._decoder.hidden(torch.tensor(tokens), sequences, _runs([(c, c.length) for c in batch]))
        if len(last_rows) < len(tokens):
            hidden = hidden[torch.tensor(last_rows, dtype=torch.int64)]
        logits = self._decoder.head(hidden, runs=_runs([(chunks[place], 1) for place in sampling]))
        return logits if sampling == sorted(sampling) else logits[torch.tensor(sampling).argsort()]

    def likeliest(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """See sampler.Likeliest."""
        token_ids = argmax(self._decoder.kernels, logits)  # -1 for a row that holds NaN
        largest = logits.gather(1, token_ids.clamp(min=0).unsqueeze(1)).squeeze(1)
        return token_ids, (token_ids >= 0) & largest.isfinite()


def _digest(chunk: Chunk) -> str:
    adapter = chunk.sequence.adapter
    return "" if adapter is None else adapter.digest


def _runs(pieces: Sequence[tuple[Chunk, int]]) -> LoraRuns | None:
    """Whose each row is; None where no row has an adapter, so that a base batch pays nothing."""
    if all(chunk.sequence.adapter is None for chunk, _ in pieces):
        return None
    return LoraRuns(
        [(None if (a := chunk.sequence.adapter) is None else a.packed, rows) for chunk, rows in pieces]
    )
