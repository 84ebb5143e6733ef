"""Modules that some adapters of a step bring themselves: norms, embeddings, output layers, single rows of these."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn
from torch.func import functional_call

from services.worker.engine.local.adapters.loaded_adapter import LoadedAdapter
from services.worker.engine.local.model.probe import ModelProbe
from services.worker.engine.local.torch_form.torch_lora import LoraBatch

_Change = Callable[[Tensor, Tensor], Tensor]
"""A module's input and output at some rows -> the output that stands in for it."""


class ReplacedModules:
    """Computes the rows of those adapters anew, after the base's module; the other rows keep what that gave them."""

    def __init__(self, probe: ModelProbe, embedding: nn.Module) -> None:
        self._probe = probe
        self._modules = {path: norm.module for path, norm in probe.norms.items()}
        self._modules[probe.output] = probe.linears[probe.output].module
        self._modules[probe.embedding] = embedding

    @contextmanager
    def applying(self, batch: LoraBatch) -> Iterator[None]:
        """Put the batch's own modules to use in the forward that runs inside."""
        hooks = [
            self._modules[path].register_forward_hook(_at_rows(rows, self._row_dimension(path), change))
            for adapter in batch.adapters
            for path, change in self._changes(adapter)
            if (rows := batch.rows_of(adapter, sampled=path == self._probe.output)).numel()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _row_dimension(self, path: str) -> int:
        norm = self._probe.norms.get(path)
        return 1 if norm is None else norm.row_dimension

    def _changes(self, adapter: LoadedAdapter) -> Iterator[tuple[str, _Change]]:
        weights = adapter.weights
        for path, parameters in weights.replaced.items():
            yield path, _replacement(self._modules[path], parameters)
        if weights.embedding is not None:
            yield self._probe.embedding, weights.embedding.apply
        if weights.output_rows is not None:
            yield self._probe.output, weights.output_rows.score


class _WithoutHooks(nn.Module):
    """Calls a module past its hooks, which are there for the base's rows."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.module.forward(x)
        return y


def _replacement(module: nn.Module, parameters: Mapping[str, Tensor]) -> _Change:
    bare = _WithoutHooks(module)
    own = {f"module.{name}": tensor for name, tensor in parameters.items()}
    return lambda x, _y: functional_call(bare, own, (x,))


def _at_rows(
    rows: Tensor, dimension: int, change: _Change
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # The step is one batch of many rows; views, so that the rows are put into the output itself.
        x, y = (one.movedim(dimension, 1)[0] for one in (inputs[0], output))
        y[rows] = change(x[rows], y[rows])

    return hook
