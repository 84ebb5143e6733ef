"""LoRA over a mixed batch: every row gets its own adapter's delta, all adapters in two products a module.

The adapters of a step are stacked, A to [columns, in] and B to [out, columns], columns being the sum of their
ranks. Rows pass through the stack together; between the two products a row keeps only the columns of its own
adapter. Rows without an adapter are left out, and a step without adapters pays nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from services.worker.engine.local.adapters.delta import Delta
from services.worker.engine.local.adapters.loaded_adapter import LoadedAdapter
from services.worker.engine.local.model.probe import LinearModule


@dataclass(frozen=True)
class StackedDeltas:
    """One module's deltas of all adapters of a step, one adapter after the other."""

    a: Tensor | None
    """[columns, in]; None where no adapter has a pair here."""
    b: Tensor | None
    """[out, columns]"""
    ranks: tuple[int, ...]
    """Columns of each adapter of the step; 0 where it has no pair here."""
    multiplier: Tensor | None
    """[adapters, out] in float32; None where all are ones."""
    bias: Tensor | None
    """[adapters, out] in float32; None where all are zeros."""


@dataclass(frozen=True, eq=False)
class LoraRows:
    """Which rows belong to which adapter of the step."""

    index: Tensor | None
    """The rows that have an adapter, [n]; None when all have one."""
    owners: Tensor
    """Of each of those rows, its adapter's place in the step, [n]."""
    _masks: dict[tuple[int, ...], Tensor | None] = field(default_factory=dict)

    def foreign(self, ranks: tuple[int, ...]) -> Tensor | None:
        """True where a column is not of the row's own adapter, [n, columns]; None when there is but one adapter.

        A model has few distinct `ranks`, so masks are made once a step and not once a module.
        """
        if len(ranks) == 1:
            return None
        if ranks not in self._masks:
            columns = torch.arange(len(ranks)).repeat_interleave(torch.tensor(ranks)).to(self.owners.device)
            self._masks[ranks] = columns.unsqueeze(0) != self.owners.unsqueeze(1)
        return self._masks[ranks]


def add_lora(y: Tensor, x: Tensor, rows: LoraRows, deltas: StackedDeltas) -> None:
    """Apply each row's delta to `y` [rows, out] in place; `x` [rows, in] is the module's input."""
    if deltas.a is not None and deltas.b is not None:
        if rows.index is not None:
            x = x.index_select(0, rows.index)
        shrunk = x @ deltas.a.t()
        foreign = rows.foreign(deltas.ranks)
        if foreign is not None:
            # Filled, not multiplied by zero: what overflows in one adapter's columns must not reach another's rows.
            shrunk.masked_fill_(foreign, 0.0)
        if rows.index is None:
            y.addmm_(shrunk, deltas.b.t())
        else:
            y.index_add_(0, rows.index, shrunk @ deltas.b.t())
    if deltas.multiplier is None and deltas.bias is None:
        return
    changed = y if rows.index is None else y.index_select(0, rows.index)
    wide = changed.float()
    if deltas.multiplier is not None:
        wide = wide * deltas.multiplier[rows.owners]
    if deltas.bias is not None:
        wide = wide + deltas.bias[rows.owners]
    if rows.index is None:
        y.copy_(wide)
    else:
        y.index_copy_(0, rows.index, wide.to(y.dtype))


class LoraBatch:
    """The adapters of one step and the rows they own."""

    def __init__(
        self,
        token_adapters: Sequence[LoadedAdapter | None],
        sampled_adapters: Sequence[LoadedAdapter | None],
        device: torch.device,
    ) -> None:
        """Take the adapter of each token row and of each sampled row; None where a row runs the base."""
        # Ordered by digest, so that the same adapters give the same stack whoever comes first.
        distinct = {adapter.digest: adapter for adapter in token_adapters if adapter is not None}
        self.adapters = tuple(distinct[digest] for digest in sorted(distinct))
        self._places = {adapter.digest: place for place, adapter in enumerate(self.adapters)}
        self.token_rows = self._rows(token_adapters, device)
        self.sampled_rows = self._rows(sampled_adapters, device)
        self._device = device
        self._token_adapters = token_adapters
        self._sampled_adapters = sampled_adapters

    def rows_of(self, adapter: LoadedAdapter, *, sampled: bool) -> Tensor:
        """The token rows or sampled rows of one adapter, [n] of int64."""
        owners = self._sampled_adapters if sampled else self._token_adapters
        rows = [row for row, one in enumerate(owners) if one is not None and one.digest == adapter.digest]
        return torch.tensor(rows, dtype=torch.int64, device=self._device)

    def _rows(self, adapters: Sequence[LoadedAdapter | None], device: torch.device) -> LoraRows | None:
        """None when no row has an adapter."""
        owned = [(row, self._places[a.digest]) for row, a in enumerate(adapters) if a is not None]
        if not owned:
            return None
        everywhere = len(owned) == len(adapters)
        return LoraRows(
            index=None if everywhere else torch.tensor([row for row, _ in owned], device=device),
            owners=torch.tensor([place for _, place in owned], device=device),
        )


class LoraModule:
    """Where one linear module's deltas are added: a forward hook with what the current step puts there."""

    def __init__(self, linear: LinearModule) -> None:
        self._linear = linear
        self._rows: LoraRows | None = None
        self._deltas: StackedDeltas | None = None
        linear.module.register_forward_hook(self._add)

    def set(self, batch: LoraBatch, deltas: StackedDeltas | None) -> None:
        self._rows = batch.sampled_rows if self._linear.sampled_rows else batch.token_rows
        self._deltas = deltas

    def clear(self) -> None:
        self._rows = self._deltas = None

    def _add(self, _module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if self._rows is None or self._deltas is None:
            return
        x = inputs[0].reshape(-1, self._linear.inputs)
        add_lora(output.view(-1, self._linear.outputs), x, self._rows, self._deltas)


class LoraModules:
    """All linear modules of one model, by path."""

    def __init__(self, linears: Mapping[str, LinearModule]) -> None:
        self._modules = {path: LoraModule(linear) for path, linear in linears.items()}
        self._stacked: tuple[LoadedAdapter, ...] = ()
        self._stacks: dict[str, StackedDeltas] = {}

    @contextmanager
    def applying(self, batch: LoraBatch) -> Iterator[None]:
        """Add the batch's deltas in the forward that runs inside."""
        self._stack(batch.adapters)
        if not batch.adapters:
            yield
            return
        try:
            for path, module in self._modules.items():
                module.set(batch, self._stacks.get(path))
            yield
        finally:
            for module in self._modules.values():
                module.clear()

    def _stack(self, adapters: tuple[LoadedAdapter, ...]) -> None:
        """Stack these adapters' factors, unless they are those of the last step, as while decoding they mostly are."""
        if adapters == self._stacked:
            return
        self._stacked, self._stacks = (), {}  # let go of the old stack before the new one is made
        paths = {path for adapter in adapters for path in adapter.weights.deltas}
        self._stacks = {
            path: _stack_module([adapter.weights.deltas.get(path) for adapter in adapters]) for path in paths
        }
        self._stacked = adapters


def _stack_module(deltas: Sequence[Delta | None]) -> StackedDeltas:
    a = [delta.a for delta in deltas if delta is not None and delta.a is not None]
    b = [delta.b for delta in deltas if delta is not None and delta.b is not None]
    return StackedDeltas(
        a=torch.cat(a) if a else None,
        b=torch.cat(b, dim=1) if b else None,
        ranks=tuple(0 if delta is None else delta.rank for delta in deltas),
        multiplier=_stack_vectors([None if delta is None else delta.multiplier for delta in deltas], 1.0),
        bias=_stack_vectors([None if delta is None else delta.bias for delta in deltas], 0.0),
    )


def _stack_vectors(vectors: Sequence[Tensor | None], missing: float) -> Tensor | None:
    """[adapters, out]; None where no adapter has any."""
    present = next((vector for vector in vectors if vector is not None), None)
    if present is None:
        return None
    return torch.stack([torch.full_like(present, missing) if one is None else one for one in vectors])
