"""How much memory an engine takes for keys and values, and for adapters: of what the machine has left, and said at start."""

import os
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

    Raises NotEnoughMemoryError where not even a block of keys and values fits in its part, or where those that the
    operator asks for leave nothing for adapters.
    """
    block_bytes = config.block_size * token_bytes
    if config.kv_tokens:
        blocks = -(-config.kv_tokens // config.block_size)
    else:
        most = config.max_sequences * -(-context_length // config.block_size)
        blocks = min(int(left * _KV_SHARE) // block_bytes, most)
    if not blocks:
        raise NotEnoughMemoryError(
            f"{left:,} bytes of memory are left beside the weights, of which keys and values get {_KV_SHARE:.0%}: "
            f"at least {int(block_bytes / _KV_SHARE):,} bytes are needed"
        )
    adapter_bytes = config.adapter_bytes or int((left - blocks * block_bytes) * _ADAPTER_SHARE)
    if adapter_bytes <= 0:
        raise NotEnoughMemoryError(
            f"kv_tokens {config.kv_tokens:,} takes {blocks * block_bytes:,} of the {left:,} bytes that are left beside the "
            "weights, and nothing is left for adapters: ask for fewer, or say adapter_bytes"
        )
    return MemoryPlan(left, token_bytes, blocks, adapter_bytes)


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
    # A kernel that does not say: all that there is.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left(group: ControlGroup) -> int | None:
    """What a group leaves; None where it sets no limit."""
    if group.is_unified:
        # Beyond `high` the kernel slows a process down until it has given up enough.
        limits = [group.number("memory.max"), group.number("memory.high")]
        used, prefix = group.number("memory.current"), ""
    else:
        limits, used = [group.number("memory.limit_in_bytes")], group.number("memory.usage_in_bytes")
        prefix = "total_"
    set_limits = [limit for limit in limits if limit is not None]
    if not set_limits or used is None:
        return None
    counts = group.counts("memory.stat")
    return (
        min(set_limits) - used + sum(counts.get(f"{prefix}{kind}_file", 0) for kind in ("inactive", "active"))
    )


def _padded(size: int) -> int:
    return -(-size // _TILE) * _TILE
