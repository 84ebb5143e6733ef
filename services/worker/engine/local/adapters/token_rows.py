"""Single rows of an embedding or output layer that an adapter has trained (PEFT's trainable_token_indices)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows that stand in for those of a weight [vocabulary, hidden]."""

    token_ids: Tensor
    """[n] of int64, ascending."""
    rows: Tensor
    """[n, hidden]"""

    def to(self, device: torch.device) -> "TokenRows":
        return TokenRows(self.token_ids.to(device), self.rows.to(device))

    @property
    def nbytes(self) -> int:
        return self.token_ids.nbytes + self.rows.nbytes

    def embed(self, tokens: Tensor, embedded: Tensor) -> Tensor:
        """Tokens [n] and what the base's table gives for them, [n, hidden] -> the same with the rows put in."""
        places = torch.searchsorted(self.token_ids, tokens).clamp(max=len(self.token_ids) - 1)
        own = self.token_ids[places] == tokens
        return torch.where(own.unsqueeze(1), self.rows[places], embedded)

    def score(self, hidden: Tensor, logits: Tensor) -> Tensor:
        """Hidden [n, hidden] and the base's logits [n, vocabulary] -> the logits with these rows' put in."""
        own = hidden @ self.rows.t()
        return logits.index_copy(1, self.token_ids, own.to(logits.dtype))
