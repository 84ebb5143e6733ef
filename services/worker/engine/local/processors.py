"""How many threads a step is worth on this machine: what this process may use, in cores that compute."""

import math
import os
from collections.abc import Iterable
from pathlib import Path

from services.worker.engine.local.control_groups import GROUPS, ROOT, ControlGroup, control_groups, read

_CPUS = Path("/sys/devices/system/cpu")


def usable_processors() -> int:
    """The least of what affinity, a container's CPU limit and the number of physical cores allow; at least 1.

    Two threads of one core share the units that multiply.
    """
    return min(most_threads(), physical_cores(_affinity(), _CPUS))


def most_threads() -> int:
    """What affinity and a container's CPU limit allow; at least 1.

    Threads beyond it take turns: each waits for tasks of others that are not running, and under a limit the kernel stops
    all of them for most of each period.
    """
    return max(1, min(len(_affinity()), quota()))


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # where a process cannot be bound


def physical_cores(cpus: Iterable[int], folder: Path) -> int:
    """Cores among these CPUs; a CPU whose siblings are not known counts as one. `folder`: the kernel's, of CPUs."""
    return len({read(folder / f"cpu{cpu}" / "topology" / "thread_siblings_list") or str(cpu) for cpu in cpus})


def quota(groups: Path = GROUPS, root: Path = ROOT) -> int:
    """CPUs that the control groups of this process grant it, rounded up; very many where they set no limit."""
    least = min((_granted(group) for group in control_groups("cpu", groups, root)), default=math.inf)
    return 1 << 16 if math.isinf(least) else max(1, math.ceil(least))


def _granted(group: ControlGroup) -> float:
    if group.is_unified:
        limit, _, period = group.read("cpu.max").partition(" ")
    else:
        limit, period = group.read("cpu.cfs_quota_us"), group.read("cpu.cfs_period_us")
    if not (limit.isdigit() and period.isdigit() and int(period)):
        return math.inf  # "max", -1, or no such file
    return int(limit) / int(period)
