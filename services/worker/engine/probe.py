"""One small forward that shows what a model does, since families name and nest the same things differently."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from services.worker.engine.attention import AttentionOptions, UnsupportedModelError
from services.worker.engine.kv_cache import KvShape

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
class ModelProbe:
    """What was seen."""

    kv_shapes: Mapping[int, KvShape]
    """By layer."""
    attention: Mapping[int, AttentionOptions]
    """What each layer asks of its attention."""
    linears: Mapping[str, LinearModule]
    """By path. Modules that saw some other number of rows (routed experts) are not among them."""


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
    rows_seen: dict[str, list[int]] = {}
    candidates = {
        path: module for path, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)
    }
    hooks = [
        module.register_forward_hook(
            lambda _module, inputs, _output, path=path: rows_seen.setdefault(path, []).append(
                _rows(inputs[0])
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
        path: LinearModule(module, *_shape(module), sampled_rows=rows_seen[path] == [_SAMPLED])
        for path, module in candidates.items()
        if rows_seen.get(path) in ([_TOKENS], [_SAMPLED])
    }
    return ModelProbe(paging.shapes, paging.options, linears)


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def _shape(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs. GPT-2's Conv1D is a linear module whose weight is stored as [in, out]."""
    if isinstance(module, Conv1D):
        return module.weight.shape[0], module.weight.shape[1]
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features
