"""What a seed promises: a row has the same bits alone, in any crowd, at any number of threads, however its prompt came in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from services.worker.engine.local.native.kernels import (
    Kernels,
    PackedCache,
    PagedAttention,
    SequenceBatch,
)
from tests.support.kernels import WAYS, kernels_of, random

HEADS, KV_HEADS, DIM, BLOCK = 6, 2, 48, 16


@pytest.fixture(params=WAYS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return kernels_of(request.param)


@dataclass(frozen=True)
class Context:
    """One context: its queries, keys and values, [positions, heads, DIM]."""

    q: Tensor
    k: Tensor
    v: Tensor


def sequence(kernels: Kernels, context: int, seed: int) -> Context:
    q = random(kernels, context, HEADS, DIM, seed=seed)
    k, v = (random(kernels, context, KV_HEADS, DIM, seed=seed + i) for i in (100, 200))
    return Context(q, k, v)


def attend(
    kernels: Kernels, sequences: Sequence[Context], lengths: Sequence[int], window: int | None = None
) -> list[Tensor]:
    """The last rows of each, so many as `lengths` says, in one batch."""
    contexts = [one.k.shape[0] for one in sequences]
    counts = [-(-context // BLOCK) for context in contexts]
    blocks = [list(range(sum(counts[:i]), sum(counts[: i + 1]))) for i in range(len(counts))]
    cache = PackedCache(
        kernels, blocks=sum(counts), block_size=BLOCK, kv_heads=KV_HEADS, key_dim=DIM, value_dim=DIM
    )
    whole = SequenceBatch(contexts, contexts, blocks, block_size=BLOCK)
    cache.write(torch.cat([one.k for one in sequences]), torch.cat([one.v for one in sequences]), whole.slots)
    batch = SequenceBatch(lengths, contexts, blocks, block_size=BLOCK)
    attention = PagedAttention(cache, HEADS, scale=DIM**-0.5, window=window)
    q = torch.cat([one.q[-length:] for one, length in zip(sequences, lengths, strict=True)])
    return list(attention(q, batch).split(list(lengths)))


@pytest.mark.parametrize("window", [None, 100, 700])
@pytest.mark.parametrize("context", [5, 300, 512, 513, 1100, 2500])
def test_attention_of_a_row_is_the_same_in_every_company(
    kernels: Kernels, context: int, window: int | None
) -> None:
    one = sequence(kernels, context, 0)
    (alone,) = attend(replace(kernels, threads=1), [one], [1], window)
    crowd = [sequence(kernels, other, 1 + other) for other in (1, 40, 600, 1300)]
    for threads in (1, 2, 3):
        among = attend(replace(kernels, threads=threads), [*crowd, one], [1, 30, 1, 200, 1], window)[-1]
        assert torch.equal(among, alone)
        (by_itself,) = attend(replace(kernels, threads=threads), [one], [1], window)
        assert torch.equal(by_itself, alone)


@pytest.mark.parametrize("window", [None, 100, 700])
def test_attention_of_a_row_is_the_same_in_every_chunk(kernels: Kernels, window: int | None) -> None:
    """As a prompt that is computed in one, in parts, or after a cached prefix."""
    whole = sequence(kernels, 1200, 0)
    (expected,) = attend(replace(kernels, threads=2), [whole], [1200], window)
    for begin, end in ((0, 512), (512, 1024), (7, 44), (1030, 1200), (1199, 1200), (640, 1041)):
        part = Context(whole.q[:end], whole.k[:end], whole.v[:end])
        (got,) = attend(replace(kernels, threads=2), [part], [end - begin], window)
        assert torch.equal(got, expected[begin:end])
