"""From an adapter's config and tensors to what the engine computes with, module by module, by PEFT 0.21's rules."""

import math
from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from services.common.adapters import tensor_names as names
from services.common.adapters.config import AdapterConfig
from services.common.adapters.refusals import config_invalid, tensors_invalid, unsupported
from services.worker.engine.local.adapters.delta import Delta
from services.worker.engine.local.adapters.embedding import EmbeddingChange
from services.worker.engine.local.adapters.loaded_adapter import AdapterWeights
from services.worker.engine.local.adapters.module_tensors import ModuleTensors
from services.worker.engine.local.adapters.token_rows import TokenRows
from services.worker.engine.local.model.probe import LinearModule, ModelProbe

_ROWS_AT_ONCE = 4096


class BaseWeights(Protocol):
    """The base's own weights, for what depends on them."""

    def weight(self, path: str) -> Tensor:
        """Of a linear module [outputs, inputs], whichever way it is stored, or of the embedding [vocabulary, hidden]."""
        ...

    def bias(self, path: str) -> Tensor | None:
        """Of a linear module, [outputs]."""
        ...

    def embedding_scale(self) -> float:
        """What the model multiplies its embedding by."""
        ...

    def parts(self, path: str) -> int:
        """Into how many parts the outputs of a linear module are divided; each keeps an adapter's A for itself."""
        ...


class AdapterBuilder:
    """Builds one adapter. Every tensor is used, or refused by name."""

    def __init__(
        self,
        probe: ModelProbe,
        base: BaseWeights,
        config: AdapterConfig,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._probe = probe
        self._base = base
        self._config = config
        self._dtype = dtype
        self._device = device
        self._deltas: dict[str, Delta] = {}
        self._replaced: dict[str, Mapping[str, Tensor]] = {}
        self._embedding: EmbeddingChange | None = None
        self._rows: dict[str, TokenRows] = {}
        self._pairs = 0

    def build(self, modules: Mapping[str, ModuleTensors]) -> AdapterWeights:
        """All changes of the adapter. Raises InvalidFieldError for what cannot be applied exactly."""
        self._check_saved(modules)
        for path, tensors in modules.items():
            if path == self._probe.embedding:
                self._build_embedding(tensors)
            elif path in self._probe.linears:
                self._build_linear(tensors, self._probe.linears[path])
            elif path in self._probe.norms:
                self._build_norm(tensors)
            else:
                raise tensors_invalid("module", path, "a module of the base that can be adapted")
            if not self._config.saves(path):
                self._check_copies(tensors)
            tensors.check_used()
        if not self._pairs:
            raise tensors_invalid(
                "", "without LoRA weights", "a file with LoRA weights of at least one module"
            )
        self._check_token_ids()
        self._check_tied()
        output_rows = self._rows.get(self._probe.output)
        if output_rows is None and self._probe.tied:
            output_rows = self._rows.get(self._probe.embedding)
        if output_rows is not None:
            self._check_output_rows()
        return AdapterWeights(self._deltas, self._replaced, self._embedding, output_rows)

    def _check_tied(self) -> None:
        """Where it ties what was trained, PEFT makes one of two modules' weights from the other's."""
        if self._config.ties_weights and self._probe.tied:
            changed = (
                self._embedding is not None,
                self._probe.output in (self._deltas.keys() | self._replaced),
            )
            if any(changed):
                raise unsupported("ensure_weight_tying", True, "false where tied weights are trained")

    def _check_saved(self, modules: Mapping[str, ModuleTensors]) -> None:
        """Every module that modules_to_save names is there, and is one that can be replaced."""
        for path in sorted(self._probe.paths):
            if not path or not self._config.saves(path):
                continue
            if path not in self._probe.norms and path not in (self._probe.embedding, self._probe.output):
                raise unsupported(
                    "modules_to_save", path, "a norm, the input embedding or the output layer of the base"
                )
            if path not in modules:
                raise tensors_invalid(f"{path}.weight", "missing", "there, as modules_to_save says")

    def _build_linear(self, tensors: ModuleTensors, linear: LinearModule) -> None:
        path, config = tensors.path, self._config
        if config.saves(path):  # the output layer: _check_saved let nothing else pass
            own = {"weight": self._convert(path, tensors.take("weight", (linear.outputs, linear.inputs)))}
            if self._base.bias(path) is not None:
                own["bias"] = self._convert(path, tensors.take("bias", (linear.outputs,)))
            self._replaced[path] = own
            return
        if names.TOKEN_ROWS in tensors:
            if path != self._probe.output:
                raise unsupported("trainable_token_indices", path, "the input embedding or the output layer")
            self._take_rows(tensors, linear.outputs, linear.inputs, scale=1.0)
            return
        own_bias = self._base.bias(path)
        if names.A in tensors or names.B in tensors:
            delta = self._low_rank(tensors, linear)
            bias_part, trained = names.BASE_BIAS, config.bias != "none"
        else:
            delta = Delta()
            bias_part, trained = names.BIAS, config.bias == "all"
        if trained and own_bias is not None:
            trained_bias = self._wide(tensors, bias_part, (linear.outputs,))
            delta = _with_bias(delta, trained_bias - own_bias.float())
        if delta.multiplier is not None and own_bias is not None:
            # The base's output comes with its bias, which DoRA does not scale.
            trained_part = delta.bias if delta.bias is not None else 0.0
            delta = Delta(
                delta.a,
                delta.b,
                multiplier=delta.multiplier,
                bias=trained_part + own_bias.float() * (1 - delta.multiplier),
            )
        if delta.a is not None or delta.bias is not None:
            self._deltas[path] = delta

    def _low_rank(self, tensors: ModuleTensors, linear: LinearModule) -> Delta:
        path, config = tensors.path, self._config
        config.targets.check(path)
        self._pairs += 1
        rank, scale = config.rank_of(path), config.scale_of(path)
        a = tensors.take(names.A, (rank, linear.inputs))
        b = tensors.take(names.B, (linear.outputs, rank))
        # Scaled in float32 and rounded once. One factor less to keep, and to multiply by in every step.
        scaled = b.float() * scale
        delta = Delta(self._convert(f"{path}.{names.A}", a), self._convert(f"{path}.{names.B}", scaled))
        if config.lora_bias:
            return _with_bias(delta, self._wide(tensors, names.B_BIAS, (linear.outputs,)) * scale)
        if config.dora:
            norms = _row_norms(self._base.weight(path), scaled.to(self._device), a.float().to(self._device))
            return Delta(delta.a, delta.b, multiplier=self._magnitude(tensors, norms))
        return delta

    def _build_embedding(self, tensors: ModuleTensors) -> None:
        path, config = tensors.path, self._config
        weight = self._base.weight(path)
        vocabulary, hidden = weight.shape
        scale = self._base.embedding_scale()
        if config.saves(path):
            table = tensors.take("weight", (vocabulary, hidden))
            self._embedding = EmbeddingChange(table=self._convert(path, table, scale))
        elif names.TOKEN_ROWS in tensors:
            self._take_rows(tensors, vocabulary, hidden, scale=scale)
        elif names.EMBEDDING_A in tensors or names.EMBEDDING_B in tensors:
            config.targets.check(path)
            self._pairs += 1
            rank, lora_scale = config.rank_of(path), config.scale_of(path)
            if config.lora_bias:
                raise unsupported("lora_bias", True, f"false where {path} is adapted")
            a = tensors.take(names.EMBEDDING_A, (rank, vocabulary))
            b = tensors.take(names.EMBEDDING_B, (hidden, rank))
            multiplier = None
            if config.dora:
                wide_a, wide_b = a.float().to(self._device), b.float().to(self._device) * lora_scale
                multiplier = self._magnitude(tensors, _column_norms(weight, wide_a.t(), wide_b.t()))
            self._embedding = EmbeddingChange(
                a=self._convert(f"{path}.{names.EMBEDDING_A}", a.t()),
                b=self._convert(f"{path}.{names.EMBEDDING_B}", b.t(), lora_scale * scale),
                multiplier=multiplier,
            )

    def _build_norm(self, tensors: ModuleTensors) -> None:
        path = tensors.path
        lengths = self._probe.norms[path].parameters
        if self._config.saves(path):
            names = list(lengths)
        elif self._config.bias == "all" and "bias" in lengths:
            names = ["bias"]
        else:
            names = []
        self._replaced[path] = {
            name: self._convert(f"{path}.{name}", tensors.take(name, (lengths[name],))) for name in names
        }

    def _take_rows(self, tensors: ModuleTensors, vocabulary: int, hidden: int, *, scale: float) -> None:
        """Trained rows of the embedding or of the output layer; `scale` is what the model multiplies them by."""
        path = tensors.path
        ids = self._token_ids(path)
        stranger = next((one for one in ids if not 0 <= one < vocabulary), None)
        if stranger is not None:
            raise config_invalid("trainable_token_indices", stranger, f"from 0 to {vocabulary - 1}")
        order = sorted(range(len(ids)), key=ids.__getitem__)
        trained = tensors.take(names.TOKEN_ROWS, (len(ids), hidden))[order]
        token_ids = torch.tensor(sorted(ids), dtype=torch.int64, device=self._device)
        self._rows[path] = TokenRows(token_ids, self._convert(path, trained))
        if path == self._probe.embedding:
            self._embedding = EmbeddingChange(rows=TokenRows(token_ids, self._convert(path, trained, scale)))

    def _token_ids(self, path: str) -> tuple[int, ...]:
        for name, ids in self._config.token_ids.items():
            if path.endswith(name) if name else path == self._probe.embedding:
                return ids
        raise tensors_invalid(
            f"{path}.{names.TOKEN_ROWS}", "there", "missing: trainable_token_indices does not name the module"
        )

    def _check_token_ids(self) -> None:
        for name in self._config.token_ids:
            path = next((path for path in self._rows if path.endswith(name)), None)
            tied = self._probe.tied and self._probe.output.endswith(name) and self._rows
            if path is None and not tied:
                raise tensors_invalid(
                    names.TOKEN_ROWS,
                    "missing",
                    f"there for {name or self._probe.embedding}, as trainable_token_indices says",
                )

    def _check_output_rows(self) -> None:
        """PEFT has no order between rows of the output layer and another change of it; neither have we."""
        output = self._probe.output
        if output in self._deltas or output in self._replaced:
            raise unsupported("trainable_token_indices", output, "a module without another change")
        if self._base.bias(output) is not None:
            raise unsupported("trainable_token_indices", output, "a module without a bias")

    def _check_copies(self, tensors: ModuleTensors) -> None:
        """PEFT saves the base's own embedding and output layer beside adapters; one that differs is another base's."""
        path = tensors.path
        ends = (self._probe.embedding, self._probe.output)
        if path not in ends and path not in self._probe.linears:
            return
        for part in (names.BASE_WEIGHT, names.WEIGHT) if path in ends else (names.BASE_WEIGHT,):
            if part in tensors:
                own = self._base.weight(path)
                copy = tensors.take(part, tuple(own.shape))
                if not torch.equal(copy.to(own.device, own.dtype), own):
                    raise tensors_invalid(
                        f"{path}.{part}", "another weight than the base's", "the base's own, or left out"
                    )

    def _magnitude(self, tensors: ModuleTensors, norms: Tensor) -> Tensor:
        multiplier = self._wide(tensors, names.MAGNITUDE, tuple(norms.shape)) / norms
        return _finite(f"{tensors.path}.{names.MAGNITUDE}", multiplier)

    def _wide(self, tensors: ModuleTensors, part: str, shape: tuple[int, ...]) -> Tensor:
        """A vector in float32."""
        return _finite(f"{tensors.path}.{part}", tensors.take(part, shape).to(self._device, torch.float32))

    def _convert(self, name: str, tensor: Tensor, scale: float = 1.0) -> Tensor:
        """A copy in the engine's dtype: the file's own bytes are mapped, and may go away."""
        if scale != 1.0:
            tensor = tensor.float() * scale
        return _finite(name, tensor.to(self._device, self._dtype, copy=True).contiguous())


def _finite(name: str, tensor: Tensor) -> Tensor:
    # NaN and infinity reach the extremes, and these are found ten times faster than isfinite() looks at every number.
    if not all(math.isfinite(extreme) for extreme in torch.aminmax(tensor)):
        raise tensors_invalid(name, "not finite", f"finite, its scale included, in {tensor.dtype}")
    return tensor


def _slices(rows: int) -> Iterator[slice]:
    """Rows a few at a time: a vocabulary's worth of float32 would be many times the adapter."""
    for begin in range(0, rows, _ROWS_AT_ONCE):
        yield slice(begin, begin + _ROWS_AT_ONCE)


def _row_norms(weight: Tensor, b: Tensor, a: Tensor) -> Tensor:
    """The norm of each row of `weight` + `b` `a`, in float32."""
    return torch.cat([(weight[rows].float() + b[rows] @ a).norm(dim=1) for rows in _slices(len(weight))])


def _column_norms(weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The norm of each column of `weight` + `a` `b`, in float32."""
    squares = [(weight[rows].float() + a[rows] @ b).square().sum(dim=0) for rows in _slices(len(weight))]
    return torch.stack(squares).sum(dim=0).sqrt()


def _with_bias(delta: Delta, bias: Tensor) -> Delta:
    both = bias if delta.bias is None else delta.bias + bias
    return Delta(delta.a, delta.b, multiplier=delta.multiplier, bias=both)
