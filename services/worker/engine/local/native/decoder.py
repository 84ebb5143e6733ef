"""A decoder on the native kernels: a step through all layers is one call.

Weights, rotary tables and attention options come from transformers' own modules, which are also the oracle.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from services.worker.engine.local.adapters.loaded_adapter import AdapterWeights
from services.worker.engine.local.model.base_weights import BaseModel
from services.worker.engine.local.model.probe import ModelProbe, embedding_scale
from services.worker.engine.local.native.family import ACTIVATIONS, activation_name, family_of
from services.worker.engine.local.native.kernels import (
    DecoderLayer,
    DecoderLayers,
    Kernels,
    OwnNorms,
    PackedCache,
    PackedLinear,
    PagedAttention,
    RmsNorm,
    RotaryWriter,
    SequenceBatch,
    Site,
)
from services.worker.engine.local.native.native_adapter import NativeAdapter, NativeTokenRows
from services.worker.engine.local.native.packed_weights import NativeWeights, layer_path
from services.worker.engine.local.native.row_owners import RowOwners

_LAST_NORM = "model.norm"


class NativeDecoder:
    """A model's weights, packed, with its cache. The transformers model keeps its embeddings and gives up the rest."""

    def __init__(
        self, base: BaseModel, probe: ModelProbe, kernels: Kernels, *, blocks: int, block_size: int
    ) -> None:
        """`why_not_native` has said None. `blocks` counts block 0, which no sequence has."""
        model: Any = base.model  # the families share no class that names these parts
        family = family_of(model)
        assert family is not None
        self.kernels = kernels
        self.block_size = block_size
        self._family = family
        self._probe = probe
        self._config = model.config
        # Gemma 2 bends its logits.
        self._softcap: float | None = getattr(model.config, "final_logit_softcapping", None)
        self._embedding: nn.Embedding = model.model.embed_tokens
        self._rotary: nn.Module = model.model.rotary_emb
        # Gemma 3 turns its layers of either kind by tables of their own.
        self._turn_kinds: list[str | None] = list(getattr(self._rotary, "layer_types", [None]))
        self._weights = NativeWeights(model, family, probe, kernels)
        self._eps: float = _eps_of(model.model.norm)
        layers = [self._layer(layer, index, blocks=blocks) for index, layer in enumerate(model.model.layers)]
        self._depth = len(layers)
        self._stack = DecoderLayers(
            kernels,
            layers,
            self._make_norm(model.model.norm.weight),
            activation=ACTIVATIONS[activation_name(model.config)],
            rotary=2 * self._turns(torch.zeros(1, dtype=torch.int64))[0][0].shape[1],
        )

    def weight(self, path: str) -> Tensor:
        """See BaseWeights.weight."""
        return self._embedding.weight if path == self._probe.embedding else self._weights.weight(path)

    def bias(self, path: str) -> Tensor | None:
        """See BaseWeights.bias."""
        return self._weights.bias(path)

    def embedding_scale(self) -> float:
        """See BaseWeights.embedding_scale."""
        return embedding_scale(self._embedding)

    def parts(self, path: str) -> int:
        """See BaseWeights.parts."""
        return self._weights.parts(path)

    def pack(self, weights: AdapterWeights) -> NativeAdapter:
        """An adapter's weights in the kernels' form, at the places of this model."""
        norms = {path: own["weight"] for path, own in weights.replaced.items() if path != self._probe.output}
        head = weights.replaced.get(self._probe.output)
        b = None if weights.embedding is None else weights.embedding.b
        rows = weights.output_rows
        return NativeAdapter(
            self._weights.pack(weights.deltas, self._own_norms(norms) if norms else None),
            head=None
            if head is None
            else PackedLinear(self.kernels, self._weights.head.site, [head["weight"]], [head.get("bias")]),
            output_rows=None
            if rows is None
            else NativeTokenRows(rows.token_ids, self._own_linear(rows.rows)),
            embedding_b=None if b is None else self._own_linear(b.t()),
        )

    def hidden(self, tokens: Tensor, sequences: SequenceBatch, owners: RowOwners) -> Tensor:
        """Tokens [rows] of int64, one sequence after the other -> what the output layer takes, [rows, hidden]."""
        residual: Tensor = self._embedding(tokens)
        for adapter, rows in owners.special:
            if adapter.weights.embedding is not None:
                expand = None if adapter.native is None else adapter.native.embedding_b
                residual[rows] = adapter.weights.embedding.apply(tokens[rows], residual[rows], expand=expand)
        return self._stack(
            residual, turns=self._turns(sequences.positions), sequences=sequences, runs=owners.runs
        )

    def logits(self, hidden: Tensor, owners: RowOwners) -> Tensor:
        """Hidden [rows, hidden] -> [rows, vocabulary]."""
        logits = self._weights.head(hidden, runs=owners.runs, softcap=self._softcap)
        for adapter, rows in owners.special:
            native = adapter.native
            if native is not None and native.head is not None:
                native.head(hidden[rows], out=logits[rows], softcap=self._softcap)
            if native is not None and native.output_rows is not None:
                native.output_rows.score(hidden[rows], logits[rows], softcap=self._softcap)
        return logits

    def _own_linear(self, weight: Tensor) -> PackedLinear:
        """A weight [outputs, inputs] that an adapter brings for itself alone."""
        outputs, inputs = weight.shape
        # No delta is added to it, so it needs no place of its own among the model's sites.
        return PackedLinear(self.kernels, Site(0, inputs, (outputs,)), [weight])

    def _own_norms(self, weights: Mapping[str, Tensor]) -> OwnNorms:
        """An adapter's, by path."""
        layers = [
            {
                name: weights[f"{layer_path(index)}.{path}"]
                for name, path in self._family.norms.items()
                if f"{layer_path(index)}.{path}" in weights
            }
            for index in range(self._depth)
        ]
        last = {"input_norm": weights[_LAST_NORM]} if _LAST_NORM in weights else {}
        return OwnNorms([*layers, last], offset=self._family.norm_offset)

    def _turns(self, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of each kind, cosines and sines [rows, rotary / 2] in float32, as the model's own module scales them."""
        wide = torch.empty(0, dtype=torch.float32)  # tells the module which dtype to answer in
        turns = []
        for kind in self._turn_kinds:
            more = () if kind is None else (kind,)
            cos, sin = self._rotary(wide, positions.unsqueeze(0), *more)
            half = cos.shape[-1] // 2  # both halves of a head turn alike
            turns.append((cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()))
        return turns

    def _layer(
        self, layer: Any, index: int, *, blocks: int
    ) -> DecoderLayer:  # Any: a layer class of each family
        family, shape, options = self._family, self._probe.kv_shapes[index], self._probe.attention[index]
        qkv, output, gate_up, down = self._weights.of_layer(index)
        heads = self._config.num_attention_heads
        cache = PackedCache(
            self.kernels,
            blocks=blocks,
            block_size=self.block_size,
            kv_heads=shape.heads,
            key_dim=shape.key_dim,
            value_dim=shape.value_dim,
        )
        q_norm, k_norm = (getattr(layer.self_attn, name, None) for name in ("q_norm", "k_norm"))
        return DecoderLayer(
            input_norm=self._make_norm(getattr(layer, family.input_norm).weight),
            qkv=qkv,
            rotary=RotaryWriter(
                cache,
                heads,
                q_norm=None if q_norm is None else self._offset(q_norm.weight),
                k_norm=None if k_norm is None else self._offset(k_norm.weight),
                eps=0.0 if q_norm is None else _eps_of(q_norm),
            ),
            attention=PagedAttention(
                cache, heads, scale=options.scaling, window=options.window, softcap=options.softcap
            ),
            output=output,
            mlp_norm=self._make_norm(getattr(layer, family.mlp_norm).weight),
            gate_up=gate_up,
            down=down,
            after_attention=self._optional_norm(layer, family.after_attention),
            after_mlp=self._optional_norm(layer, family.after_mlp),
            turns=0 if len(self._turn_kinds) == 1 else self._turn_kinds.index(layer.self_attn.layer_type),
        )

    def _optional_norm(self, layer: Any, name: str | None) -> RmsNorm | None:  # Any: as above
        return None if name is None else self._make_norm(getattr(layer, name).weight)

    def _make_norm(self, weight: Tensor) -> RmsNorm:
        return RmsNorm(self.kernels, weight, self._eps, offset=self._family.norm_offset)

    def _offset(self, weight: Tensor | None) -> Tensor | None:
        return None if weight is None else weight.float() + self._family.norm_offset


def _eps_of(norm: Any) -> float:  # Any: a norm class of each family
    return float(norm.eps if hasattr(norm, "eps") else norm.variance_epsilon)
