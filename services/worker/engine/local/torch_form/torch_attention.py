"""Attention over keys and values in blocks, called by transformers' own model code.

The model code of every family asks transformers' AttentionInterface for a function by name. Ours is named
`loramux_paged`; what it needs to know of the step travels beside the hidden states as the keyword argument
`paging`, through the model's **kwargs.
"""

from collections import abc
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from services.worker.engine.local.adapters.loaded_adapter import LoadedAdapter
from services.worker.engine.local.model.unsupported_model import UnsupportedModelError
from services.worker.engine.local.schedule.block_pool import NULL_BLOCK
from services.worker.engine.local.schedule.scheduler import StepChunk
from services.worker.engine.local.schedule.sequence import Sequence
from services.worker.engine.local.torch_form.kv_cache import KvCache

IMPLEMENTATION = "loramux_paged"

# What models pass along that does not change the result here. Anything else might (attention sinks do), so it
# is refused rather than dropped.
_HARMLESS = frozenset({"dropout", "output_attentions", "output_hidden_states", "position_ids", "use_cache"})


@dataclass(frozen=True)
class AttentionOptions:
    """What a layer asks for."""

    scaling: float
    window: int | None
    """Attend to this many latest tokens, the query's own included; None attends to all."""
    softcap: float | None
    """Scores become softcap * tanh(score / softcap); Gemma 2 has it."""


class Paging(Protocol):
    """What receives the attention calls of one forward."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions
    ) -> Tensor:
        """query, key, value: [heads, tokens, dim], with fewer heads for key and value where queries share them.

        Returns [tokens, query heads, value dim].
        """
        ...


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    paging: Paging,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,  # the families pass different things
) -> tuple[Tensor, None]:
    """The attention function of transformers: query, key, value [1, heads, tokens, dim] -> [1, tokens, heads, dim].

    Raises UnsupportedModelError for a mask or an argument that it would have to ignore.
    """
    unknown = sorted(name for name, given in others.items() if given is not None and name not in _HARMLESS)
    if attention_mask is not None:
        unknown.append("attention_mask")
    if not getattr(module, "is_causal", True):
        unknown.append("is_causal=False")
    if unknown:
        raise UnsupportedModelError(f"{type(module).__name__} passes {', '.join(unknown)} to its attention")
    layer = module.layer_idx
    if not isinstance(layer, int):
        raise UnsupportedModelError(f"{type(module).__name__} has no layer number")
    options = AttentionOptions(
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
    )
    return paging.attend(layer, query[0], key[0], value[0], options).unsqueeze(0), None


AttentionInterface.register(IMPLEMENTATION, paged_attention)


class PagedAttention:
    """The attention calls of one step over a batch of chunks, whose tokens lie one chunk after the other."""

    def __init__(
        self, cache: KvCache, chunks: abc.Sequence[StepChunk[LoadedAdapter]], device: torch.device
    ) -> None:
        self._cache = cache
        self._parts: list[_Part] = []
        decoding: list[tuple[int, StepChunk[LoadedAdapter]]] = []
        written: list[Tensor] = []
        row = 0
        for chunk in chunks:
            if chunk.length == 1:
                decoding.append((row, chunk))
                written.append(_slots(chunk.sequence, chunk.start, chunk.end, cache.block_size))
            else:
                slots = _slots(chunk.sequence, 0, chunk.end, cache.block_size)
                self._parts.append(_Prefill(row, chunk, slots.to(device)))
                written.append(slots[chunk.start :])
            row += chunk.length
        self._parts.extend(_Decode(group, cache.block_size, device) for group in _by_length(decoding))
        self._written = torch.cat(written).to(device)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions
    ) -> Tensor:
        keys, values = self._cache.slots(layer)
        keys.index_copy_(0, self._written, key.transpose(0, 1))
        values.index_copy_(0, self._written, value.transpose(0, 1))
        out = query.new_empty(query.shape[1], query.shape[0], value.shape[2])
        for part in self._parts:
            part.attend(query, keys, values, options, out)
        return out


class _Part(Protocol):
    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, options: AttentionOptions, out: Tensor
    ) -> None:
        """Fill this part's rows of `out` [tokens, heads, dim]."""
        ...


class _Prefill:
    """One chunk of one prompt against everything before it and itself."""

    def __init__(self, row: int, chunk: StepChunk[LoadedAdapter], slots: Tensor) -> None:
        self._rows = slice(row, row + chunk.length)
        self._chunk = chunk
        self._slots = slots
        self._masks: dict[tuple[int | None, bool], Tensor | None] = {}

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, options: AttentionOptions, out: Tensor
    ) -> None:
        attended = _attend(
            query[:, self._rows].unsqueeze(0),
            keys.index_select(0, self._slots).transpose(0, 1).unsqueeze(0),
            values.index_select(0, self._slots).transpose(0, 1).unsqueeze(0),
            self._mask(options),
            options,
        )
        out[self._rows] = attended[0].transpose(0, 1)

    def _mask(self, options: AttentionOptions) -> Tensor | None:
        """[tokens, context] of booleans, or None for the plain causal mask of a prompt's beginning."""
        window = options.window
        key = (window, options.softcap is None)
        if key not in self._masks:
            whole = self._chunk.start == 0 and (window is None or self._chunk.end <= window)
            plain = whole and options.softcap is None
            self._masks[key] = None if plain else self._make_mask(window)
        return self._masks[key]

    def _make_mask(self, window: int | None) -> Tensor:
        device = self._slots.device
        queries = torch.arange(self._chunk.start, self._chunk.end, device=device).unsqueeze(1)
        context = torch.arange(self._chunk.end, device=device).unsqueeze(0)
        mask = context <= queries
        return mask if window is None else mask & (context > queries - window)


class _Decode:
    """One token each of several sequences, whose contexts are padded to the longest with the null slot.

    The null slot is zero for good, so no stale number of another sequence can reach a product.
    """

    def __init__(
        self, rows: abc.Sequence[tuple[int, StepChunk[LoadedAdapter]]], block_size: int, device: torch.device
    ) -> None:
        lengths = torch.tensor([chunk.end for _, chunk in rows])
        widest = max(chunk.end for _, chunk in rows)
        blocks = -(-widest // block_size)
        tables = torch.full((len(rows), blocks), NULL_BLOCK, dtype=torch.int64)
        for table, (_, chunk) in zip(tables, rows, strict=True):
            held = chunk.sequence.blocks[:blocks]
            table[: len(held)] = torch.tensor(held)
        positions = torch.arange(widest)
        slots = tables[:, positions // block_size] * block_size + positions % block_size
        inside = positions < lengths.unsqueeze(1)
        self._rows = torch.tensor([row for row, _ in rows], device=device)
        self._slots = torch.where(inside, slots, NULL_BLOCK * block_size).flatten().to(device)
        self._inside = inside.to(device)
        self._since_last = (lengths.unsqueeze(1) - positions).to(device)
        self._shape = (len(rows), widest)
        self._masks: dict[int | None, Tensor] = {}

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, options: AttentionOptions, out: Tensor
    ) -> None:
        sequences, width = self._shape
        kv_heads = keys.shape[1]
        # The query heads that share a key head become the rows of one small product: nothing is repeated.
        grouped = query.index_select(1, self._rows).transpose(0, 1)
        grouped = grouped.reshape(sequences, kv_heads, query.shape[0] // kv_heads, query.shape[2])
        attended = _attend(
            grouped,
            keys.index_select(0, self._slots).view(sequences, width, kv_heads, -1).transpose(1, 2),
            values.index_select(0, self._slots).view(sequences, width, kv_heads, -1).transpose(1, 2),
            self._mask(options.window),
            options,
        )
        out.index_copy_(0, self._rows, attended.reshape(sequences, query.shape[0], -1))

    def _mask(self, window: int | None) -> Tensor:
        """[sequences, 1, 1, width] of booleans."""
        if window not in self._masks:
            mask = self._inside if window is None else self._inside & (self._since_last <= window)
            self._masks[window] = mask[:, None, None, :]
        return self._masks[window]


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, options: AttentionOptions
) -> Tensor:
    """Softmax attention, [batch, heads, rows, dim]; a mask of None is the causal one."""
    if options.softcap is None:
        return functional.scaled_dot_product_attention(
            query,
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None,
            scale=options.scaling,
            enable_gqa=query.shape[1] != keys.shape[1],
        )
    assert mask is not None
    shared = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(shared, 1), values.repeat_interleave(shared, 1)
    scores = query @ keys.transpose(-1, -2) * options.scaling
    scores = options.softcap * torch.tanh(scores / options.softcap)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1, dtype=torch.float32)
    return weights.to(query.dtype) @ values


def _slots(sequence: Sequence[LoadedAdapter], start: int, end: int, block_size: int) -> Tensor:
    """Where a sequence's tokens from `start` to `end` lie, [end - start]."""
    first = start // block_size
    blocks = torch.tensor(sequence.blocks[first : -(-end // block_size)])
    positions = torch.arange(start, end)
    return blocks[positions // block_size - first] * block_size + positions % block_size


def _by_length(
    rows: abc.Sequence[tuple[int, StepChunk[LoadedAdapter]]],
) -> list[list[tuple[int, StepChunk[LoadedAdapter]]]]:
    """Put sequences of like length together, so that one long context does not pad all others to its length."""
    groups: dict[int, list[tuple[int, StepChunk[LoadedAdapter]]]] = {}
    for row in rows:
        # Contexts to 256, 1,024, 4,096 and so on.
        groups.setdefault(max(0, (row[1].end - 1).bit_length() - 7) // 2, []).append(row)
    return list(groups.values())
