"""What each kernel computes, in torch and in float32."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from services.worker.engine.local.adapters.delta import Delta
from services.worker.engine.local.native.kernels.linear import Activation


def linear(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    """X [rows, inputs] -> the outputs of all projections side by side, float32."""
    outputs = [
        functional.linear(x.float(), weight.float(), None if bias is None else bias.float())
        for weight, bias in zip(weights, biases, strict=True)
    ]
    return torch.cat(outputs, dim=1)


def apply_delta(y: Tensor, x: Tensor, delta: Delta) -> Tensor:
    """One projection of one adapter: y [rows, outputs] with what `delta` does, float32."""
    y = y.float()
    if delta.a is not None and delta.b is not None:
        y = y + delta.scale * (x.float() @ delta.a.float().T @ delta.b.float().T)
    if delta.multiplier is not None:
        y = y * delta.multiplier.float()
    return y if delta.bias is None else y + delta.bias.float()


def activate(activation: Activation, x: Tensor) -> Tensor:
    """The gate's function; x itself for NONE."""
    if activation is Activation.SILU:
        return functional.silu(x)
    return functional.gelu(x, approximate="tanh") if activation is Activation.GELU_TANH else x


def attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """One sequence: q [rows, heads, key_dim], the last of the context; keys, values [context, kv_heads, dim].

    Returns [rows, heads * value_dim], float32.
    """
    shared = q.shape[1] // keys.shape[1]
    keys, values = (one.float().repeat_interleave(shared, dim=1) for one in (keys, values))
    scores = torch.einsum("qhd,khd->hqk", q.float(), keys) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    context = keys.shape[0]
    behind = torch.arange(context - q.shape[0], context).unsqueeze(1) - torch.arange(context)
    hidden = behind < 0
    if window is not None:
        hidden |= behind >= window
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, values).flatten(1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """X [rows, heads, dim], cos and sin [rows, rotary / 2]: the first `rotary` numbers of each head turned, float32."""
    half = cos.shape[1]
    x = x.float()
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Over the last dimension, float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()
