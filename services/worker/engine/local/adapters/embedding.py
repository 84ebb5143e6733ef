"""What an adapter changes about the input embedding."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from services.worker.engine.local.adapters.token_rows import TokenRows


@dataclass(frozen=True, eq=False)
class EmbeddingChange:
    """Either a table of its own, or rows of its own, or a low-rank delta: e = (e + A[token] B) * multiplier.

    A model that scales its embedding (Gemma) has that scale in all of these.
    """

    table: Tensor | None = None
    """[vocabulary, hidden]"""
    rows: TokenRows | None = None
    a: Tensor | None = None
    """[vocabulary, rank]"""
    b: Tensor | None = None
    """[rank, hidden], the adapter's scale folded in. None beside A where the runner has B in a form of its own."""
    multiplier: Tensor | None = None
    """[hidden] in float32; DoRA's magnitude over norm."""

    def to(self, device: torch.device) -> "EmbeddingChange":
        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        rows = None if self.rows is None else self.rows.to(device)
        return EmbeddingChange(move(self.table), rows, move(self.a), move(self.b), move(self.multiplier))

    @property
    def nbytes(self) -> int:
        parts = (self.table, self.rows, self.a, self.b, self.multiplier)
        return sum(part.nbytes for part in parts if part is not None)

    def apply(
        self, tokens: Tensor, embedded: Tensor, *, expand: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Tokens [n] and the base's embedding of them, [n, hidden] -> the adapter's, in the same dtype.

        expand: multiplies by B, [n, rank] -> [n, hidden], where the runner has B.
        """
        if self.table is not None:
            return functional.embedding(tokens, self.table)
        if self.rows is not None:
            embedded = self.rows.embed(tokens, embedded)
        if self.a is not None:
            shrunk = functional.embedding(tokens, self.a)
            if expand is not None:
                embedded = embedded + expand(shrunk)
            else:
                assert self.b is not None
                embedded = embedded + shrunk @ self.b
        if self.multiplier is not None:
            embedded = (embedded * self.multiplier).to(embedded.dtype)
        return embedded
