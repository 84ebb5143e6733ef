"""One small forward that shows what a model does, since families name and nest the same things differently."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from services.common.adapters.targets import BaseModules
from services.worker.engine.local.model.unsupported_model import UnsupportedModelError
from services.worker.engine.local.torch_form.kv_cache import KvShape
from services.worker.engine.local.torch_form.torch_attention import AttentionOptions

_TOKENS = 7
_SAMPLED = 2


@dataclass(frozen=True)
class LinearModule:
    """A module y = x W + b that an adapter may adapt."""

    module: nn.Module
    inputs: int
    outputs: int
    sampled_rows: bool
    """Whether it sees the rows of sampled tokens only, as the output layer does, or those of all tokens."""


@dataclass(frozen=True)
class NormModule:
    """A module with a vector of weights, that treats each token by itself: an adapter may bring its own vector."""

    module: nn.Module
    parameters: Mapping[str, int]
    """Their lengths, by name."""
    row_dimension: int = 1
    """Which dimension of its input [1, ...] counts the tokens; a norm of each head may see [1, heads, tokens, width]."""


@dataclass(frozen=True)
class ModelProbe:
    """What was seen."""

    kv_shapes: Mapping[int, KvShape]
    """By layer."""
    attention: Mapping[int, AttentionOptions]
    """What each layer asks of its attention."""
    linears: Mapping[str, LinearModule]
    """By path. Modules that saw some other number of rows (routed experts) are not among them."""
    norms: Mapping[str, NormModule]
    """By path."""
    embedding: str
    """Path of the input embedding."""
    output: str
    """Path of the output layer."""
    tied: bool
    """Whether these two have one weight."""
    paths: frozenset[str]
    """Of all modules that have parameters."""
    model_type: str = ""
    """As in the model's config."""

    @property
    def adaptable(self) -> BaseModules:
        """What the rules of adapters need to know of the model."""
        return BaseModules(self.model_type, self.paths, self.linears.keys() - {self.output})


class _ShapeRecorder:
    """Answers attention calls with zeros and notes what each layer would keep."""

    def __init__(self) -> None:
        self.shapes: dict[int, KvShape] = {}
        self.options: dict[int, AttentionOptions] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions
    ) -> Tensor:
        self.shapes[layer] = KvShape(key.shape[0], key.shape[2], value.shape[2])
        self.options[layer] = options
        return query.new_zeros(query.shape[1], query.shape[0], value.shape[2])


@torch.inference_mode()
def probe_model(model: PreTrainedModel) -> ModelProbe:
    """Run `model` over a few tokens and note its keys, values and linear modules.

    Raises UnsupportedModelError when a layer keeps state that does not pass through its attention function.
    """
    paging = _ShapeRecorder()
    seen: dict[str, list[tuple[int, ...]]] = {}
    candidates = {path: module for path, module in model.named_modules() if _may_change(module)}
    hooks = [
        module.register_forward_hook(
            lambda _module, inputs, _output, path=path: seen.setdefault(path, []).append(
                tuple(inputs[0].shape)
            ),
        )
        for path, module in candidates.items()
    ]
    try:
        model(
            input_ids=torch.arange(_TOKENS, device=model.device).unsqueeze(0),
            position_ids=torch.arange(_TOKENS, device=model.device).unsqueeze(0),
            logits_to_keep=torch.arange(_SAMPLED, device=model.device),
            use_cache=False,
            paging=paging,
        )
    finally:
        for hook in hooks:
            hook.remove()
    layers = model.config.get_text_config().num_hidden_layers
    if sorted(paging.shapes) != list(range(layers)):
        raise UnsupportedModelError(
            f"{type(model).__name__} has {layers} layers, of which {len(paging.shapes)} use the attention interface",
        )
    linears = {
        path: LinearModule(module, *_shape(module), sampled_rows=rows == [_SAMPLED])
        for path, module in candidates.items()
        if _is_linear(module)
        and (rows := [math.prod(shape[:-1]) for shape in seen.get(path, ())]) in ([_TOKENS], [_SAMPLED])
    }
    norms = {
        path: NormModule(
            module,
            {name: one.numel() for name, one in module.named_parameters()},
            shape[1:].index(_TOKENS) + 1,
        )
        for path, module in candidates.items()
        if not _is_linear(module)
        for shape in seen.get(path, ())[:1]
        if len(seen[path]) == 1 and _TOKENS in shape[1:-1]
    }
    embedding: Any = model.get_input_embeddings()
    output: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    by_module = {module: path for path, module in model.named_modules()}
    if output is None or output not in by_module or by_module[output] not in linears:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no output layer that scores the sampled tokens"
        )
    return ModelProbe(
        paging.shapes,
        paging.options,
        linears,
        norms,
        embedding=by_module[embedding],
        output=by_module[output],
        tied=output.weight is embedding.weight,
        paths=frozenset(
            path for module, path in by_module.items() if next(module.parameters(), None) is not None
        ),
        model_type=model.config.model_type,
    )


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _may_change(module: nn.Module) -> bool:
    """Linear modules, and what holds nothing but vectors, as norms do."""
    if _is_linear(module):
        return True
    parameters = list(module.parameters())
    return bool(parameters) and not list(module.children()) and all(one.ndim == 1 for one in parameters)


def _shape(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs. GPT-2's Conv1D is a linear module whose weight is stored as [in, out]."""
    if isinstance(module, Conv1D):
        return module.weight.shape[0], module.weight.shape[1]
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features


def linear_weight(module: nn.Module) -> Tensor:
    """The weight [outputs, inputs] of a linear module, whichever way it stores it."""
    assert isinstance(module, nn.Linear | Conv1D)
    return module.weight.t() if isinstance(module, Conv1D) else module.weight


def linear_bias(module: nn.Module) -> Tensor | None:
    """The bias [outputs] of a linear module."""
    assert isinstance(module, nn.Linear | Conv1D)
    return module.bias


def embedding_scale(module: nn.Module) -> float:
    """What an embedding multiplies its rows by; Gemma 3's does."""
    return float(getattr(module, "embed_scale", 1.0))
