"""Reads the tensors of an adapter's weight file, by module and by what they are."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from services.common.adapters.refusals import WEIGHTS, tensors_invalid
from services.common.adapters.tensor_names import FORM, split_name

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class ModuleTensors:
    """The tensors of one module. Each is taken once; what is left when the module is done, nothing would use."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._tensors: dict[str, Tensor] = {}

    def put(self, part: str, tensor: Tensor) -> None:
        self._tensors[part] = tensor

    def __contains__(self, part: str) -> bool:
        return part in self._tensors

    def take(self, part: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that part. Raises InvalidFieldError where it is missing or misshapen."""
        tensor = self._tensors.pop(part, None)
        if tensor is None:
            raise tensors_invalid(f"{self.path}.{part}", "missing", f"there, with shape {list(shape)}")
        if tuple(tensor.shape) != shape:
            raise tensors_invalid(f"shape of {self.path}.{part}", list(tensor.shape), str(list(shape)))
        return tensor

    def check_used(self) -> None:
        """Raises InvalidFieldError for a tensor that nobody took."""
        for part in self._tensors:
            raise tensors_invalid(
                f"{self.path}.{part}", "there", "missing: with this config and base, nothing would use it"
            )


def read_tensors(folder: Path) -> dict[str, ModuleTensors]:
    """All tensors of the file, by path of the module. Raises InvalidFieldError for names and dtypes that nothing uses."""
    modules: dict[str, ModuleTensors] = {}
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a mapping: it has no iterator
                split = split_name(name)
                if split is None:
                    raise tensors_invalid("tensor name", name, f"{FORM}; nothing would use this tensor")
                path, part = split
                tensor = file.get_tensor(name)
                if tensor.dtype not in _DTYPES:
                    raise tensors_invalid(
                        f"dtype of {name}", str(tensor.dtype), "float32, float16 or bfloat16"
                    )
                modules.setdefault(path, ModuleTensors(path)).put(part, tensor)
    except (OSError, SafetensorError) as error:
        raise tensors_invalid("", str(error), "a whole safetensors file") from None
    return modules
