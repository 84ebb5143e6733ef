"""How much memory an engine takes for keys and values, and for adapters: of what the machine has left, and said at start."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from services.worker.engine.local.control_groups import GROUPS, ROOT, ControlGroup, control_groups, read
from services.worker.engine.local.engine_config import EngineConfig
from services.worker.engine.local.torch_form.kv_cache import KvShape

_MEMINFO = Path("/proc/meminfo")
# The kernels pad each head to whole registers.
_TILE = 16
# Of what is left once the weights are there. The other half is for adapters, half of it again, and for what a step
# needs, Python, and whoever else is on the machine.
_KV_SHARE = 0.5
_ADAPTER_SHARE = 0.5


class NotEnoughMemoryError(Exception):
    """Too little is left beside the weights to serve anything."""


@dataclass(frozen=True)
class MemoryPlan:
    """What an engine may take, in bytes and tokens."""

    left: int
    """Bytes that the weights leave."""
    token_bytes: int
    """Of one token's keys and values, in all layers."""
    kv_blocks: int
    adapter_bytes: int

    def kv_bytes(self, block_size: int) -> int:
        """All keys and values, once every block has been used."""
        return self.kv_blocks * block_size * self.token_bytes


def plan_memory(config: EngineConfig, *, left: int, token_bytes: int, context_length: int) -> MemoryPlan:
    """Divide `left` bytes, where the config does not say itself.

    Raises NotEnoughMemoryError where not even a block of keys and values fits in its part.
    """
    tokens = config.kv_tokens or min(
        int(left * _KV_SHARE) // token_bytes, config.max_sequences * context_length
    )
    blocks = -(-tokens // config.block_size) if config.kv_tokens else tokens // config.block_size
    if not blocks:
        raise NotEnoughMemoryError(
            f"{left:,} bytes of memory are left beside the weights, of which keys and values get {_KV_SHARE:.0%}: "
            f"at least {int(config.block_size * token_bytes / _KV_SHARE):,} bytes are needed"
        )
    rest = max(0, left - blocks * config.block_size * token_bytes)
    return MemoryPlan(left, token_bytes, blocks, config.adapter_bytes or int(rest * _ADAPTER_SHARE))


def bytes_per_token(shapes: Iterable[KvShape], dtype: torch.dtype) -> int:
    """Of keys and values in all layers, in the runner that pads most."""
    return sum(
        shape.heads * (_padded(shape.key_dim) + _padded(shape.value_dim)) * dtype.itemsize for shape in shapes
    )


def free_bytes(device: torch.device) -> int:
    """Memory that may still be taken on the device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    return host_bytes()


def host_bytes(meminfo: Path = _MEMINFO, groups: Path = GROUPS, root: Path = ROOT) -> int:
    """The least of what the machine has and what the control groups of this process leave it.

    Pages of files count as free: the kernel gives them up for those that are asked for.
    """
    lefts = (_left(group) for group in control_groups("memory", groups, root))
    return max(0, min([_available(meminfo), *(left for left in lefts if left is not None)]))


def _available(meminfo: Path) -> int:
    for line in read(meminfo).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return 1 << 62  # a kernel that does not say; the control groups may


def _left(group: ControlGroup) -> int | None:
    """What a group leaves; None where it sets no limit."""
    if group.is_unified:
        limit, used, prefix = group.number("memory.max"), group.number("memory.current"), ""
    else:
        limit, used = group.number("memory.limit_in_bytes"), group.number("memory.usage_in_bytes")
        prefix = "total_"
    if limit is None or used is None:
        return None
    counts = dict(line.split() for line in group.read("memory.stat").splitlines())
    return limit - used + sum(int(counts.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))


def _padded(size: int) -> int:
    return -(-size // _TILE) * _TILE
