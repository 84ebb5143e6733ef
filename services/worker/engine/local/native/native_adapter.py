"""The parts of an adapter that the native kernels compute."""

from dataclasses import dataclass

from torch import Tensor

from services.worker.engine.local.native.kernels import PackedAdapter, PackedLinear


@dataclass(frozen=True, eq=False)
class NativeTokenRows:
    """TokenRows of the output layer. torch's sums depend on how many rows there are; these do not."""

    token_ids: Tensor
    """[n] of int64, ascending."""
    rows: PackedLinear
    """[n, hidden]"""

    @property
    def nbytes(self) -> int:
        return self.token_ids.nbytes + self.rows.nbytes

    def score(self, hidden: Tensor, logits: Tensor, *, softcap: float | None) -> None:
        """Put these rows' logits for hidden [n, hidden] into logits [n, vocabulary], softcapped as PackedLinear does."""
        logits.index_copy_(1, self.token_ids, self.rows(hidden, softcap=softcap))


@dataclass(frozen=True, eq=False)
class NativeAdapter:
    """Packed for one model on the kernels. Calls of its parts must not overlap in time, as the engine's never do."""

    packed: PackedAdapter
    head: PackedLinear | None = None
    """An output layer of its own."""
    output_rows: NativeTokenRows | None = None
    embedding_b: PackedLinear | None = None
    """B of the embedding's low-rank delta, transposed: rank to hidden."""

    @property
    def nbytes(self) -> int:
        parts = (self.packed, self.head, self.output_rows, self.embedding_b)
        return sum(part.nbytes for part in parts if part is not None)
