"""The linear layers of a model, packed for the kernels, and adapters packed to fit them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from services.worker.engine.local.adapters.delta import Delta
from services.worker.engine.local.model.probe import ModelProbe
from services.worker.engine.local.native.family import Family, Piece
from services.worker.engine.local.native.kernels import (
    Arena,
    Kernels,
    OwnNorms,
    PackedAdapter,
    PackedLinear,
    Site,
    linear_bytes,
)


@dataclass(frozen=True)
class _Place:
    """Where a module, or a part of it, lies among the sites."""

    site: int
    projection: int
    piece: Piece


class NativeWeights:
    """All sites of a model: those of the layers in the order of their calls, then the output layer."""

    def __init__(
        self, model: Any, family: Family, probe: ModelProbe, kernels: Kernels
    ) -> None:  # Any: see NativeDecoder
        """Packs the weights; the model's modules give theirs up."""
        self._kernels = kernels
        groups = [
            tuple(Piece(f"{layer_path(layer)}.{one.path}", one.part, one.parts) for one in group)
            for layer in range(len(model.model.layers))
            for group in family.groups
        ]
        groups.append((Piece(probe.output),))
        self.sites = [
            Site(
                index,
                probe.linears[group[0].path].inputs,
                tuple(probe.linears[piece.path].outputs // piece.parts for piece in group),
            )
            for index, group in enumerate(groups)
        ]
        self._places: dict[str, list[_Place]] = {}
        for index, group in enumerate(groups):
            for projection, piece in enumerate(group):
                self._places.setdefault(piece.path, []).append(_Place(index, projection, piece))
        modules = {path: model.get_submodule(path) for path in self._places}
        self._biases: dict[str, Tensor | None] = {path: module.bias for path, module in modules.items()}
        arena = Arena(sum(linear_bytes(kernels, site) for site in self.sites))
        self.linears = [
            PackedLinear(
                kernels,
                site,
                [_part(modules[piece.path].weight, piece) for piece in group],
                [_optional_part(modules[piece.path].bias, piece) for piece in group],
                arena=arena,
            )
            for site, group in zip(self.sites, groups, strict=True)
        ]
        for module in modules.values():
            # Packed, they are of no more use; the embeddings keep a weight that they share with the output layer.
            module.weight = None

    @property
    def head(self) -> PackedLinear:
        """The output layer."""
        return self.linears[-1]

    def of_layer(self, layer: int) -> list[PackedLinear]:
        """The four sites of a layer, in the order of their calls."""
        return self.linears[4 * layer : 4 * (layer + 1)]

    def weight(self, path: str) -> Tensor:
        """See BaseWeights.weight."""
        return torch.cat([self.linears[place.site].weight(place.projection) for place in self._places[path]])

    def bias(self, path: str) -> Tensor | None:
        """See BaseWeights.bias."""
        return self._biases[path]

    def parts(self, path: str) -> int:
        """See BaseWeights.parts."""
        return len(self._places.get(path, ()))

    def pack(self, deltas: Mapping[str, Delta], norms: OwnNorms | None) -> PackedAdapter:
        """An adapter's deltas, by path, in the kernels' form, and its norms with them."""
        return PackedAdapter(
            self._kernels,
            self.sites,
            {
                (place.site, place.projection): _part_of_delta(delta, place.piece)
                for path, delta in deltas.items()
                for place in self._places[path]
            },
            norms=norms,
        )


def layer_path(index: int) -> str:
    """Of a decoder layer."""
    return f"model.layers.{index}"


def _part(tensor: Tensor, piece: Piece) -> Tensor:
    """The rows of a weight, or the numbers of a bias, that belong to a piece."""
    return tensor if piece.parts == 1 else tensor.chunk(piece.parts)[piece.part]


def _optional_part(tensor: Tensor | None, piece: Piece) -> Tensor | None:
    return None if tensor is None else _part(tensor, piece)


def _part_of_delta(delta: Delta, piece: Piece) -> Delta:
    if piece.parts == 1:
        return delta
    return Delta(
        delta.a,
        _optional_part(delta.b, piece),
        delta.scale,
        _optional_part(delta.multiplier, piece),
        _optional_part(delta.bias, piece),
    )
