"""Tokens from logits, without sorting the vocabulary: rows side by side in the kernels' threads."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.engine.local.native.kernels import structs
from services.worker.engine.local.native.kernels.library import Kernels


@dataclass(frozen=True)
class Chosen:
    """What came of each row."""

    tokens: list[int]
    """-1 where a row is not finite."""
    logprobs: list[float]
    """Of the tokens, under the model's own distribution; without meaning where a row did not ask."""
    top: list[list[tuple[int, float]]]
    """The likeliest tokens with theirs, so many as a row asked for."""


def choose(kernels: Kernels, logits: Tensor, rows: Sequence[structs.ChooseRow]) -> Chosen:
    """A token for each row of `logits` [rows, n]; pointers in `rows` must hold until this returns."""
    count, stride = kernels.rows("logits", logits, logits.shape[1])
    if count != len(rows):
        raise ValueError(f"rows must be {count}, as many as logits has, not {len(rows)}")
    most = max((row.logprobs for row in rows), default=0)
    width = min(max(most, 0), logits.shape[1])
    tokens = torch.empty(count, dtype=torch.int64)
    logprobs = torch.zeros(count)
    top_tokens = torch.zeros(count, width, dtype=torch.int64)
    top_logprobs = torch.zeros(count, width)
    array = (structs.ChooseRow * count)(*rows)
    kernels.choose(
        structs.Choose(
            x=logits.data_ptr(),
            x_stride=stride,
            n=logits.shape[1],
            rows=count,
            row=ctypes.addressof(array),
            token=tokens.data_ptr(),
            logprob=logprobs.data_ptr(),
            top_token=top_tokens.data_ptr(),
            top_logprob=top_logprobs.data_ptr(),
            top_stride=width,
            threads=kernels.threads,
        )
    )
    pairs = zip(top_tokens.tolist(), top_logprobs.tolist(), strict=True)
    top = [
        list(zip(ids[: max(row.logprobs, 0)], values, strict=False))
        for row, (ids, values) in zip(rows, pairs, strict=True)
    ]
    return Chosen(tokens.tolist(), logprobs.tolist(), top)
