"""Attention over the paged cache, and what writes into the cache."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from services.worker.engine.local.native.kernels import (
    Kernels,
    PackedCache,
    PagedAttention,
    RotaryWriter,
    SequenceBatch,
)
from tests.support import kernels_reference as reference
from tests.support.kernels import WAYS, assert_near, kernels_of, random


@pytest.fixture(params=WAYS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return kernels_of(request.param)


@dataclass(frozen=True)
class Case:
    """Sequences with contexts of random numbers, in blocks scattered over a cache full of NaN."""

    cache: PackedCache
    batch: SequenceBatch
    blocks: list[list[int]]
    keys: list[Tensor]
    values: list[Tensor]
    q: Tensor
    lengths: Sequence[int]

    def expected(self, *, scale: float, window: int | None = None, softcap: float | None = None) -> Tensor:
        queries = self.q.split(list(self.lengths))
        return torch.cat(
            [
                reference.attention(q, k, v, scale=scale, window=window, softcap=softcap)
                for q, k, v in zip(queries, self.keys, self.values, strict=True)
            ]
        )


def make(
    kernels: Kernels,
    lengths: Sequence[int],
    contexts: Sequence[int],
    *,
    heads: int = 6,
    kv_heads: int = 2,
    dim: int = 64,
    value_dim: int | None = None,
    block_size: int = 16,
) -> Case:
    needed = [-(-context // block_size) for context in contexts]
    order = torch.randperm(sum(needed) + 3, generator=torch.Generator().manual_seed(0)).tolist()
    blocks = [[order.pop() for _ in range(count)] for count in needed]
    cache = PackedCache(
        kernels,
        blocks=sum(needed) + 3,
        block_size=block_size,
        kv_heads=kv_heads,
        key_dim=dim,
        value_dim=value_dim or dim,
    )
    # What other sequences leave behind may be anything.
    cache.keys.fill_(float("nan"))
    cache.values.fill_(float("nan"))
    keys = [random(kernels, context, kv_heads, dim, seed=i) for i, context in enumerate(contexts)]
    values = [
        random(kernels, context, kv_heads, value_dim or dim, seed=9 + i) for i, context in enumerate(contexts)
    ]
    whole = SequenceBatch(contexts, contexts, blocks, block_size=block_size)
    if contexts:
        cache.write(torch.cat(keys), torch.cat(values), whole.slots)
    batch = SequenceBatch(lengths, contexts, blocks, block_size=block_size)
    return Case(
        cache, batch, blocks, keys, values, random(kernels, sum(lengths), heads, dim, seed=99), lengths
    )


def check(kernels: Kernels, case: Case, *, window: int | None = None, softcap: float | None = None) -> None:
    scale = case.q.shape[2] ** -0.5
    attention = PagedAttention(case.cache, case.q.shape[1], scale=scale, window=window, softcap=softcap)
    got = attention(case.q, case.batch)
    assert_near(kernels, got, case.expected(scale=scale, window=window, softcap=softcap), roundings=2)


@pytest.mark.parametrize("context", [1, 2, 15, 16, 17, 127, 128, 129, 300, 1000])
def test_one_token_attends_to_its_whole_context(kernels: Kernels, context: int) -> None:
    check(kernels, make(kernels, [1], [context]))


def test_sequences_of_all_lengths_decode_together(kernels: Kernels) -> None:
    contexts = [1, 700, 3, 16, 64, 65, 33, 128, 250, 5]
    check(kernels, make(kernels, [1] * len(contexts), contexts))


@pytest.mark.parametrize(
    ("length", "context"), [(2, 2), (16, 16), (33, 33), (200, 200), (1, 50), (7, 150), (100, 300)]
)
def test_a_prompts_chunk_sees_its_past_and_no_future(kernels: Kernels, length: int, context: int) -> None:
    check(kernels, make(kernels, [length], [context]))


def test_decode_rows_and_chunks_share_a_batch(kernels: Kernels) -> None:
    check(kernels, make(kernels, [1, 40, 1, 7, 1], [90, 40, 600, 130, 1]))


@pytest.mark.parametrize("dim", [1, 7, 20, 64, 80, 96, 128, 256])
def test_any_head_size_is_exact(kernels: Kernels, dim: int) -> None:
    check(kernels, make(kernels, [1, 9], [40, 21], dim=dim))


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (9, 3), (14, 2), (32, 1), (40, 1)])
def test_heads_may_share_keys_in_any_ratio(kernels: Kernels, heads: int, kv_heads: int) -> None:
    check(kernels, make(kernels, [1, 5], [40, 21], heads=heads, kv_heads=kv_heads, dim=32))


@pytest.mark.parametrize("block_size", [16, 32, 64, 128, 256])
def test_any_block_size_is_exact(kernels: Kernels, block_size: int) -> None:
    check(kernels, make(kernels, [1, 30], [400, 100], block_size=block_size))


@pytest.mark.parametrize("window", [1, 2, 16, 50, 127, 5000])
def test_a_window_hides_what_is_further_back(kernels: Kernels, window: int) -> None:
    check(kernels, make(kernels, [1, 60, 1], [900, 200, 20]), window=window)


def test_a_softcap_bends_the_scores(kernels: Kernels) -> None:
    check(kernels, make(kernels, [1, 20], [300, 50]), softcap=2.0)
    check(kernels, make(kernels, [1, 20], [300, 50]), softcap=50.0, window=30)


def test_values_may_be_of_another_size_than_keys(kernels: Kernels) -> None:
    check(kernels, make(kernels, [1, 20], [300, 50], dim=48, value_dim=36))


def test_large_scores_do_not_overflow(kernels: Kernels) -> None:
    case = make(kernels, [1, 9], [200, 30])
    case.q.mul_(100)
    check(kernels, case)


def test_a_long_context_is_cut_and_merged(kernels: Kernels) -> None:
    kernels = replace(kernels, threads=3)
    case = make(kernels, [1, 3], [3000, 1500], heads=4, kv_heads=2, dim=32)
    check(kernels, case)
    check(kernels, case, window=100)


def test_queries_may_lie_head_by_head_or_inside_a_fused_projection(kernels: Kernels) -> None:
    case = make(kernels, [1, 4], [40, 21])
    attention = PagedAttention(case.cache, 6, scale=0.125)
    expected = attention(case.q, case.batch)
    by_head = case.q.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(attention(by_head, case.batch), expected)
    fused = torch.zeros(5, 6 * 64 + 2 * 128, dtype=kernels.dtype)
    fused[:, : 6 * 64] = case.q.flatten(1)
    assert torch.equal(attention(fused[:, : 6 * 64].unflatten(1, (6, 64)), case.batch), expected)


def test_what_was_written_is_what_lies_in_the_cache(kernels: Kernels) -> None:
    case = make(kernels, [1], [37], dim=20)
    keys, values = case.cache.unpacked()
    slots = SequenceBatch([37], [37], case.blocks, block_size=16).slots
    assert torch.equal(keys.flatten(0, 1)[slots], case.keys[0])
    assert torch.equal(values.flatten(0, 1)[slots], case.values[0])


def test_tokens_written_one_by_one_read_like_tokens_written_at_once(kernels: Kernels) -> None:
    case = make(kernels, [1], [21])
    cache = PackedCache(
        kernels, blocks=case.cache.blocks, block_size=16, kv_heads=2, key_dim=64, value_dim=64
    )
    cache.keys.fill_(float("nan"))
    cache.values.fill_(float("nan"))
    slots = SequenceBatch([21], [21], case.blocks, block_size=16).slots
    for i in range(21):
        cache.write(case.keys[0][i : i + 1], case.values[0][i : i + 1], slots[i : i + 1])
    attention = PagedAttention(cache, 6, scale=0.125)
    assert torch.equal(
        attention(case.q, case.batch), PagedAttention(case.cache, 6, scale=0.125)(case.q, case.batch)
    )


@pytest.mark.parametrize(("dim", "rotary"), [(64, 64), (96, 24), (20, 20), (128, 128), (6, 2), (64, 0)])
@pytest.mark.parametrize("normed", [False, True])
def test_heads_turn_on_their_way_into_the_cache(
    kernels: Kernels, dim: int, rotary: int, normed: bool
) -> None:
    heads, kv_heads, rows = 4, 2, 21
    cache = PackedCache(kernels, blocks=4, block_size=16, kv_heads=kv_heads, key_dim=dim, value_dim=dim)
    batch = SequenceBatch([rows], [rows], [[2, 0]], block_size=16)
    q, k, v = (random(kernels, rows, n, dim, seed=i) for i, n in enumerate((heads, kv_heads, kv_heads)))
    angles = torch.rand(rows, rotary // 2)
    norms = [random(kernels, dim, seed=i) for i in range(2)] if normed else [None, None]
    expected_q, expected_k = (
        reference.rotate(x if norm is None else reference.rms_norm(x, norm, 1e-6), angles.cos(), angles.sin())
        for x, norm in zip((q, k), norms, strict=True)
    )
    writer = RotaryWriter(cache, heads, q_norm=norms[0], k_norm=norms[1], eps=1e-6)
    writer(q, k, v, cos=angles.cos(), sin=angles.sin(), slots=batch.slots)
    keys, values = (one.flatten(0, 1)[batch.slots] for one in cache.unpacked())
    assert_near(kernels, q, expected_q)
    assert_near(kernels, keys, expected_k)
    assert torch.equal(values, v)


def test_a_batch_knows_positions_and_slots() -> None:
    batch = SequenceBatch([1, 3], [18, 4], [[5, 2], [7]], block_size=16)
    assert batch.positions.tolist() == [17, 1, 2, 3]
    assert batch.slots.tolist() == [2 * 16 + 1, 7 * 16 + 1, 7 * 16 + 2, 7 * 16 + 3]


def test_a_long_context_takes_no_room_of_short_ones() -> None:
    contexts = [8_000, *[20] * 255]
    lists = [list(range(7, 507)), *([2 * i, 2 * i + 1] for i in range(255))]
    from_lists = SequenceBatch([1] * 256, contexts, lists, block_size=16)
    batch = SequenceBatch([1] * 256, contexts, [array("i", held) for held in lists], block_size=16)
    assert batch._blocks.tolist() == [block for held in lists for block in held]
    assert batch.slots.tolist() == [
        held[-1] * 16 + (context - 1) % 16 for held, context in zip(lists, contexts, strict=True)
    ]
    assert torch.equal(batch.slots, from_lists.slots)
    assert (batch.highest_block, from_lists.highest_block) == (509, 509)


def test_no_sequences_give_no_rows(kernels: Kernels) -> None:
    case = make(kernels, [], [])
    assert PagedAttention(case.cache, 6, scale=1.0)(case.q, case.batch).shape == (0, 128 * 3)


def test_what_does_not_fit_is_refused(kernels: Kernels) -> None:
    case = make(kernels, [1], [20])
    attention = PagedAttention(case.cache, 6, scale=1.0)
    with pytest.raises(ValueError, match=r"q must be \[1, 6, 64\]"):
        attention(random(kernels, 2, 6, 64), case.batch)
    with pytest.raises(ValueError, match="is not one of"):
        attention(case.q, SequenceBatch([1], [20], [[0, 400]], block_size=16))
    with pytest.raises(ValueError, match="cannot share"):
        PagedAttention(case.cache, 5, scale=1.0)
    with pytest.raises(ValueError, match="multiple of 16"):
        PackedCache(kernels, blocks=1, block_size=8, kv_heads=1, key_dim=8, value_dim=8)
    with pytest.raises(ValueError, match="1 rows, 20 positions, 1 blocks of 16"):
        SequenceBatch([1], [20], [[0]], block_size=16)
    with pytest.raises(ValueError, match=r"slots must be \[1\]"):
        case.cache.write(case.keys[0][:1], case.values[0][:1], torch.zeros(2, dtype=torch.int64))
