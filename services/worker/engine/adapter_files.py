"""Reads an adapter's two files into the exact factors of every module that it adapts, or refuses them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from services.common.errors import InvalidFieldError
from services.common.logs import get_logger
from services.worker.engine.adapter import LoadedAdapter, LoraPair
from services.worker.engine.adapter_config import read_config
from services.worker.engine.interface import AdapterFiles
from services.worker.engine.kernels import PackedAdapter
from services.worker.engine.probe import LinearModule

_log = get_logger(__name__)

NAME = "adapter_model.safetensors"

_TENSOR = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<half>[AB])\.weight")
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class AdapterLoader:
    """Loads adapters for one model on one device."""

    linears: Mapping[str, LinearModule]
    """The modules that may be adapted, by path."""
    dtype: torch.dtype
    device: torch.device
    pack: Callable[[Mapping[str, LoraPair]], PackedAdapter] | None = None
    """Brings the weights into the form of the native kernels, where those run."""

    @torch.inference_mode()
    def load(self, files: AdapterFiles) -> LoadedAdapter:
        """Read, check and convert an adapter's weights; takes as long as the disk does.

        Raises InvalidFieldError, naming what cannot be applied exactly.
        """
        config = read_config(files.folder)
        halves = self._read(files)
        pairs = {}
        for path, by_half in halves.items():
            linear = self.linears.get(path)
            if linear is None:
                raise _invalid(f"{NAME}: module", path, "a linear module of the base model")
            for half, other in (("A", "B"), ("B", "A")):
                if half not in by_half:
                    raise _invalid(
                        f"{NAME}: {path}.lora_{half}.weight", "missing", f"there, as lora_{other} is"
                    )
            rank = config.rank_of(path)
            _check_shape(path, "A", by_half["A"], (rank, linear.inputs))
            _check_shape(path, "B", by_half["B"], (linear.outputs, rank))
            # Scaled in float32 and rounded once. One factor less to keep, and to multiply by in every step.
            scaled = by_half["B"].float() * config.scale_of(path)
            pairs[path] = LoraPair(
                a=self._convert(f"{path}.lora_A.weight", by_half["A"]),
                b=self._convert(f"{path}.lora_B.weight", scaled),
            )
        if not pairs:
            raise _invalid(NAME, "without tensors", "LoRA weights of at least one module")
        adapter = self._in_form(files.digest, pairs)
        _log.info("adapter_loaded", digest=files.digest, modules=len(pairs), bytes=adapter.nbytes)
        return adapter

    def _in_form(self, digest: str, pairs: Mapping[str, LoraPair]) -> LoadedAdapter:
        if self.pack is not None:
            packed = self.pack(pairs)
            return LoadedAdapter(digest, {}, packed.nbytes, packed)
        return LoadedAdapter(digest, pairs, sum(pair.a.nbytes + pair.b.nbytes for pair in pairs.values()))

    def _read(self, files: AdapterFiles) -> dict[str, dict[str, Tensor]]:
        halves: dict[str, dict[str, Tensor]] = {}
        try:
            with safe_open(files.folder / NAME, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  # not a mapping: it has no iterator
                    match = _TENSOR.fullmatch(name)
                    if match is None:
                        raise _invalid(
                            f"{NAME}: tensor name",
                            name,
                            "base_model.model.<module path>.lora_A.weight or .lora_B.weight; nothing would use it",
                        )
                    tensor = file.get_tensor(name)
                    if tensor.dtype not in _DTYPES:
                        raise _invalid(
                            f"{NAME}: dtype of {name}", tensor.dtype, "float32, float16 or bfloat16"
                        )
                    halves.setdefault(match["path"], {})[match["half"]] = tensor
        except (OSError, SafetensorError) as error:
            raise _invalid(NAME, str(error), "a whole safetensors file") from None
        return halves

    def _convert(self, name: str, tensor: Tensor) -> Tensor:
        """A copy in the engine's dtype: the file's own bytes are mapped, and may go away."""
        converted = tensor.to(self.device, self.dtype, copy=True).contiguous()
        if not converted.isfinite().all():
            raise _invalid(f"{NAME}: {name}", "not finite", f"finite, its scale included, in {self.dtype}")
        return converted


def _check_shape(path: str, half: str, tensor: Tensor, expected: tuple[int, int]) -> None:
    if tuple(tensor.shape) != expected:
        raise _invalid(f"{NAME}: shape of {path}.lora_{half}.weight", list(tensor.shape), str(list(expected)))


def _invalid(field: str, value: object, bound: str) -> InvalidFieldError:
    return InvalidFieldError(field, value, bound, reason="ADAPTER_TENSORS_INVALID")
