"""A decoder of the Llama family on the native kernels: a step through all layers is one call.

Families whose layers compute the same share it: RMSNorm, attention with rotary embedding, RMSNorm, gated MLP. Their
weights, rotary tables and attention options come from transformers' own modules, which are also the oracle.
"""

from typing import Any

import torch
from torch import Tensor, nn

from services.worker.engine.adapter import AdapterWeights
from services.worker.engine.kernels import (
    Activation,
    Arena,
    DecoderLayer,
    DecoderLayers,
    Kernels,
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
from services.worker.engine.native_adapter import NativeAdapter
from services.worker.engine.probe import ModelProbe
from services.worker.engine.row_owners import RowOwners

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
_EMBEDDING = "model.embed_tokens"
_LAST_NORM = "model.norm"
_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")


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
            tuple(f"{_layer_path(layer)}.{path}" for path in group)
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
        self._embedding: nn.Embedding = model.model.embed_tokens
        self._rotary: nn.Module = model.model.rotary_emb
        self._biases: dict[str, Tensor | None] = {
            path: model.get_submodule(path).bias for path in self._places
        }
        self._eps: float = model.model.norm.variance_epsilon
        arena = Arena(sum(linear_bytes(kernels, site) for site in self.sites))
        linears = [
            self._pack_linear(model, site, group, arena)
            for site, group in zip(self.sites, paths, strict=True)
        ]
        self._linears = linears[:-1]
        self._head = linears[-1]
        self._layers = [
            self._layer(
                layer,
                self._linears[len(_GROUPS) * index : len(_GROUPS) * (index + 1)],
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
        self._norm = RmsNorm(kernels, model.model.norm.weight, self._eps)
        self._stack = DecoderLayers(
            kernels,
            self._layers,
            self._norm,
            activation=self._activation,
            rotary=2 * self._turns(torch.zeros(1, dtype=torch.int64))[0].shape[1],
        )

    def weight(self, path: str) -> Tensor:
        """See BaseWeights.weight."""
        if path == _EMBEDDING:
            return self._embedding.weight
        index, place = self._places[path]
        return [*self._linears, self._head][index].weight(place)

    def bias(self, path: str) -> Tensor | None:
        """See BaseWeights.bias."""
        return self._biases[path]

    def pack(self, weights: AdapterWeights) -> NativeAdapter:
        """An adapter's weights in the kernels' form, at the places of this model."""
        deltas = {self._places[path]: delta for path, delta in weights.deltas.items()}
        own = {path: tensors["weight"] for path, tensors in weights.replaced.items()}
        head = weights.replaced.get(_HEAD)
        return NativeAdapter(
            PackedAdapter(self.kernels, self.sites, deltas),
            norms={
                path: RmsNorm(self.kernels, weight, self._eps)
                for path, weight in own.items()
                if path != _HEAD and not path.endswith(_HEAD_NORMS)
            },
            rotaries={
                index: layer.rotary.with_norms(
                    *(own.get(f"{_layer_path(index)}.{name}") for name in _HEAD_NORMS)
                )
                for index, layer in enumerate(self._layers)
                if any(f"{_layer_path(index)}.{name}" in own for name in _HEAD_NORMS)
            },
            head=None
            if head is None
            else PackedLinear(self.kernels, self._head.site, [head["weight"]], [head.get("bias")]),
        )

    def hidden(self, tokens: Tensor, sequences: SequenceBatch, owners: RowOwners) -> Tensor:
        """Tokens [rows] of int64, one sequence after the other -> what the output layer takes, [rows, hidden]."""
        residual: Tensor = self._embedding(tokens)
        for adapter, rows in owners.special:
            if adapter.weights.embedding is not None:
                residual[rows] = adapter.weights.embedding.apply(tokens[rows], residual[rows])
        cos, sin = self._turns(sequences.positions)
        if any(adapter.native and adapter.native.has_norms for adapter, _ in owners.special):
            return self._hidden_with_own_norms(residual, (cos, sin), sequences, owners)
        return self._stack(residual, cos=cos, sin=sin, sequences=sequences, runs=owners.runs)

    def _hidden_with_own_norms(
        self, residual: Tensor, turns: tuple[Tensor, Tensor], sequences: SequenceBatch, owners: RowOwners
    ) -> Tensor:
        """The same, kernel by kernel, where an adapter in the step brings norms of its own."""
        runs = owners.runs
        x: Tensor | None = None
        for index, layer in enumerate(self._layers):
            path = _layer_path(index)
            x = self._normed(layer.input_norm, f"{path}.input_layernorm", x, residual, owners)
            qkv = layer.qkv(x, runs=runs)
            query, key, size = self._heads
            q, k, v = qkv.view(qkv.shape[0], -1, size).split((query, key, key), dim=1)
            self._turn(index, (q, k, v), turns, sequences, owners)
            x = layer.output(layer.attention(q, sequences), runs=runs)
            x = self._normed(layer.mlp_norm, f"{path}.post_attention_layernorm", x, residual, owners)
            x = layer.gate_up(x, runs=runs, activation=self._activation)
            x = layer.down(x, runs=runs)
        assert x is not None
        return self._normed(self._norm, _LAST_NORM, x, residual, owners)

    def logits(self, hidden: Tensor, owners: RowOwners) -> Tensor:
        """Hidden [rows, hidden] -> [rows, vocabulary]."""
        logits = self._head(hidden, runs=owners.runs)
        for adapter, rows in owners.special:
            if adapter.native is not None and adapter.native.head is not None:
                adapter.native.head(hidden[rows], out=logits[rows])
            if adapter.weights.output_rows is not None:
                logits[rows] = adapter.weights.output_rows.score(hidden[rows], logits[rows])
        return logits

    @staticmethod
    def _normed(norm: RmsNorm, path: str, x: Tensor | None, residual: Tensor, owners: RowOwners) -> Tensor:
        """Add `x` to the residual, where there is one, and norm that."""
        normed = norm(residual) if x is None else norm(x, residual=residual)
        for adapter, rows in owners.special:
            own = None if adapter.native is None else adapter.native.norms.get(path)
            if own is not None:
                own(residual[rows], out=normed[rows])
        return normed

    def _turn(
        self,
        index: int,
        qkv: tuple[Tensor, Tensor, Tensor],
        turns: tuple[Tensor, Tensor],
        sequences: SequenceBatch,
        owners: RowOwners,
    ) -> None:
        """Turn queries and keys, and keep keys and values."""
        rotary = self._layers[index].rotary
        (q, k, v), (cos, sin), slots = qkv, turns, sequences.slots
        if not any(adapter.native and adapter.native.rotaries for adapter, _ in owners.special):
            rotary(q, k, v, cos=cos, sin=sin, slots=slots)
            return
        for adapter, rows in owners.stretches:
            native = None if adapter is None else adapter.native
            own = rotary if native is None else native.rotaries.get(index, rotary)
            own(q[rows], k[rows], v[rows], cos=cos[rows], sin=sin[rows], slots=slots[rows])

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
    ) -> DecoderLayer:  # Any: a layer class of each family
        kernels, options = self.kernels, probe.attention[index]
        qkv, output, gate_up, down = linears
        heads = qkv.site.outputs[0] // cache.key_dim
        self._heads = (heads, cache.kv_heads, cache.key_dim)
        q_norm, k_norm = (getattr(layer.self_attn, name, None) for name in ("q_norm", "k_norm"))
        return DecoderLayer(
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
        )


def _layer_path(index: int) -> str:
    return f"model.layers.{index}"
