"""The header of a safetensors file: parsed strictly, because the bytes after it are taken at its word.

The format is 8 bytes of little-endian header length, a JSON object, then the tensors' bytes with no gap:
https://huggingface.co/docs/safetensors/index#format
"""

import math
from dataclasses import dataclass
from typing import Any

from services.common.adapters import strict_json

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 25_000_000
"""As huggingface_hub has it."""

_MAX_DIMENSIONS = 8
_DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16,
    "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class HeaderError(ValueError):
    """The header is not a safetensors header; the message says why."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of the file."""

    dtype: str
    """As the format spells it: F32, BF16, ..."""
    shape: tuple[int, ...]
    begin: int
    """Offset of the first byte after the header."""
    end: int
    """Offset behind the last byte."""


def header_end(prefix: bytes, *, file_size: int) -> int:
    """Where the header ends and the tensors begin, by the file's first LENGTH_BYTES. Raises HeaderError."""
    if len(prefix) < LENGTH_BYTES:
        raise HeaderError(
            f"the file has {len(prefix)} bytes, and a header's length alone takes {LENGTH_BYTES}"
        )
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise HeaderError(f"the header claims {length} bytes; at most {MAX_HEADER_BYTES} are read")
    end = LENGTH_BYTES + length
    if end > file_size:
        raise HeaderError(f"the header claims to end at byte {end}; the file has {file_size} bytes")
    return end


def parse_header(data: bytes, *, file_size: int) -> dict[str, TensorEntry]:
    """The tensors that the JSON `data` describes, by name, in a file of `file_size` bytes.

    Raises HeaderError where the entries are malformed, overlap, leave a gap, or do not fill the file.
    """
    try:
        document = strict_json.parse_object(data)
    except strict_json.StrictJsonError as error:
        raise HeaderError(f"the header is not valid JSON: {error}") from None
    document.pop("__metadata__", None)
    tensors = {name: _entry(name, value) for name, value in document.items()}
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != position:
            raise HeaderError(f"tensor {name!r} begins at byte {tensor.begin}; it must begin at {position}")
        position = tensor.end
    expected = LENGTH_BYTES + len(data) + position
    if expected != file_size:
        raise HeaderError(f"the file has {file_size} bytes; its header and tensors add up to {expected}")
    return tensors


def _entry(name: str, value: Any) -> TensorEntry:  # Any: a JSON value
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise HeaderError(f"tensor {name!r} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPE_BITS:
        raise HeaderError(f"tensor {name!r} has unknown dtype {str(dtype)[:40]!r}")
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS:
        raise HeaderError(f"tensor {name!r} has shape {str(shape)[:80]}; it must be a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:  # noqa: PLR2004
        raise HeaderError(f"tensor {name!r} has data_offsets {str(offsets)[:80]}; it must be [begin, end]")
    begin, end = offsets
    bits = math.prod(shape) * _DTYPE_BITS[dtype]
    if (end - begin) * 8 != bits:
        raise HeaderError(f"tensor {name!r} takes {end - begin} bytes; {dtype} {shape} takes {bits / 8:g}")
    return TensorEntry(dtype, tuple(shape), begin, end)


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(strict_json.is_int(one) and 0 <= one < 2**63 for one in value)
