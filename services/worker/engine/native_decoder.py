"""A decoder of the Llama family on the native kernels: eight calls a layer, and nothing between them.

Families whose layers compute the same share it: RMSNorm, attention with rotary embedding, RMSNorm, gated MLP. Their
weights, rotary tables and attention options come from transformers' own modules, which are also the oracle.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from services.worker.engine.adapter import LoraPair
from services.worker.engine.kernels import (
    Activation,
    Arena,
    Delta,
    Kernels,
    LoraRuns,
    PackedAdapter,
    PackedCache,
    PackedLinear,
    PagedAttention,
    RmsNorm,
    RotaryWriter,
    SequenceBatch,
    Site,
    linear_bytes,
)
from services.worker.engine.model import BaseModel
from services.worker.engine.probe import ModelProbe

FAMILIES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})

_ACTIVATIONS = {"silu": Activation.SILU, "gelu_pytorch_tanh": Activation.GELU_TANH}
_BLOCK_MULTIPLE = 16

# The projections that share an input, by the path below a layer.
_GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
_HEAD = "lm_head"


def why_not_native(base: BaseModel, block_size: int) -> str | None:
    """What keeps a model from running on the kernels; None where nothing does."""
    family = type(base.model).__name__
    if base.device.type != "cpu":
        return f"the device is {base.device.type}"
    if family not in FAMILIES:
        return f"{family} is not one of {', '.join(sorted(FAMILIES))}"
    activation = base.model.config.hidden_act
    if activation not in _ACTIVATIONS:
        return f"the activation {activation} is not one of {', '.join(_ACTIVATIONS)}"
    if block_size % _BLOCK_MULTIPLE:
        return f"blocks of {block_size} tokens are not a multiple of {_BLOCK_MULTIPLE}"
    return None


@dataclass(frozen=True, eq=False)
class _Layer:
    """One decoder layer's kernels, in the order of their calls."""

    input_norm: RmsNorm
    qkv: PackedLinear
    rotary: RotaryWriter
    attention: PagedAttention
    output: PackedLinear
    mlp_norm: RmsNorm
    gate_up: PackedLinear
    down: PackedLinear
    heads: tuple[int, int, int]
    """Query heads, key heads, head size."""


class NativeDecoder:
    """A model's weights, packed, with its cache. The transformers model keeps its embeddings and gives up the rest."""

    def __init__(
        self, base: BaseModel, probe: ModelProbe, kernels: Kernels, *, blocks: int, block_size: int
    ) -> None:
        """`why_not_native` has said None. `blocks` counts block 0, which no sequence has."""
        model: Any = base.model  # the families share no class that names these parts
        self.kernels = kernels
        self.block_size = block_size
        self.dtype = base.dtype
        self._activation = _ACTIVATIONS[model.config.hidden_act]
        paths = [
            tuple(f"model.layers.{layer}.{path}" for path in group)
            for layer in range(len(model.model.layers))
            for group in _GROUPS
        ] + [(_HEAD,)]
        self.sites = [
            Site(
                index,
                probe.linears[group[0]].inputs,
                tuple(probe.linears[path].outputs for path in group),
            )
            for index, group in enumerate(paths)
        ]
        self._places = {
            path: (index, place) for index, group in enumerate(paths) for place, path in enumerate(group)
        }
        self._embedding: nn.Module = model.model.embed_tokens
        self._rotary: nn.Module = model.model.rotary_emb
        arena = Arena(sum(linear_bytes(kernels, site) for site in self.sites))
        linears = [
            self._pack_linear(model, site, group, arena)
            for site, group in zip(self.sites, paths, strict=True)
        ]
        self.head = linears.pop()
        self._layers = [
            self._layer(
                layer,
                linears[len(_GROUPS) * index : len(_GROUPS) * (index + 1)],
                PackedCache(
                    kernels,
                    blocks=blocks,
                    block_size=block_size,
                    kv_heads=probe.kv_shapes[index].heads,
                    key_dim=probe.kv_shapes[index].key_dim,
                    value_dim=probe.kv_shapes[index].value_dim,
                ),
                probe,
                index,
            )
            for index, layer in enumerate(model.model.layers)
        ]
        self._norm = RmsNorm(kernels, model.model.norm.weight, model.model.norm.variance_epsilon)

    def pack(self, pairs: Mapping[str, LoraPair]) -> PackedAdapter:
        """An adapter's weights in the kernels' form, at the places of this model."""
        deltas = {self._places[path]: Delta(pair.a, pair.b) for path, pair in pairs.items()}
        return PackedAdapter(self.kernels, self.sites, deltas)

    def hidden(self, tokens: Tensor, sequences: SequenceBatch, runs: LoraRuns | None) -> Tensor:
        """Tokens [rows] of int64, one sequence after the other -> what the output layer takes, [rows, hidden]."""
        residual: Tensor = self._embedding(tokens)
        cos, sin = self._turns(sequences.positions)
        x: Tensor | None = None
        for layer in self._layers:
            x = layer.input_norm(residual) if x is None else layer.input_norm(x, residual=residual)
            qkv = layer.qkv(x, runs=runs)
            query, key, size = layer.heads
            q, k, v = qkv.view(qkv.shape[0], -1, size).split((query, key, key), dim=1)
            layer.rotary(q, k, v, cos=cos, sin=sin, slots=sequences.slots)
            x = layer.output(layer.attention(q, sequences), runs=runs)
            x = layer.mlp_norm(x, residual=residual)
            x = layer.gate_up(x, runs=runs, activation=self._activation)
            x = layer.down(x, runs=runs)
        assert x is not None
        return self._norm(x, residual=residual)

    def _turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [rows, rotary / 2] in float32, as the model's own module scales them."""
        wide = torch.empty(0, dtype=torch.float32)  # tells the module which dtype to answer in
        cos, sin = self._rotary(wide, positions.unsqueeze(0))
        half = cos.shape[-1] // 2  # both halves of a head turn alike
        return cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()

    def _pack_linear(
        self, model: Any, site: Site, group: tuple[str, ...], arena: Arena
    ) -> PackedLinear:  # Any: as above
        modules = [model.get_submodule(path) for path in group]
        packed = PackedLinear(
            self.kernels,
            site,
            [module.weight for module in modules],
            [module.bias for module in modules],
            arena=arena,
        )
        for module in modules:
            # Packed, they are of no more use; the embeddings keep a weight that they share with the output layer.
            module.weight = None
        return packed

    def _layer(
        self, layer: Any, linears: list[PackedLinear], cache: PackedCache, probe: ModelProbe, index: int
    ) -> _Layer:  # Any: a layer class of each family
        kernels, options = self.kernels, probe.attention[index]
        qkv, output, gate_up, down = linears
        heads = qkv.site.outputs[0] // cache.key_dim
        q_norm, k_norm = (getattr(layer.self_attn, name, None) for name in ("q_norm", "k_norm"))
        return _Layer(
            input_norm=RmsNorm(kernels, layer.input_layernorm.weight, layer.input_layernorm.variance_epsilon),
            qkv=qkv,
            rotary=RotaryWriter(
                cache,
                heads,
                q_norm=None if q_norm is None else q_norm.weight,
                k_norm=None if k_norm is None else k_norm.weight,
                eps=0.0 if q_norm is None else q_norm.variance_epsilon,
            ),
            attention=PagedAttention(
                cache, heads, scale=options.scaling, window=options.window, softcap=options.softcap
            ),
            output=output,
            mlp_norm=RmsNorm(
                kernels,
                layer.post_attention_layernorm.weight,
                layer.post_attention_layernorm.variance_epsilon,
            ),
            gate_up=gate_up,
            down=down,
            heads=(heads, cache.kv_heads, cache.key_dim),
        )
