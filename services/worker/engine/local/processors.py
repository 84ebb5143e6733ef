"""How many threads a step is worth on this machine: what this process may use, in cores that compute."""

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

_GROUPS = Path("/proc/self/cgroup")
_CGROUP_ROOT = Path("/sys/fs/cgroup")
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
    return max(1, min(len(_affinity()), quota(_GROUPS, _CGROUP_ROOT)))


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # where a process cannot be bound


def physical_cores(cpus: Iterable[int], folder: Path) -> int:
    """Cores among these CPUs; a CPU whose siblings are not known counts as one. `folder`: the kernel's, of CPUs."""
    return len(
        {_read(folder / f"cpu{cpu}" / "topology" / "thread_siblings_list") or str(cpu) for cpu in cpus}
    )


def quota(groups: Path, root: Path) -> int:
    """CPUs that the control groups of this process grant it, rounded up; very many where they set no limit.

    `groups` is the kernel's list of them, `root` where they are mounted. A limit further up counts too.
    """
    least = math.inf
    for line in _read(groups).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            least = min(least, _least(root, path, _v2))
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):
                least = min(least, _least(root / name, path, _v1))
    return 1 << 16 if math.isinf(least) else max(1, math.ceil(least))


def _least(root: Path, path: str, read: Callable[[Path], float]) -> float:
    """Over a group and all above it; inside a container its own is the root."""
    here, found = root / path.lstrip("/"), [read(root)]
    while here != root and root in here.parents:
        found.append(read(here))
        here = here.parent
    return min(found)


def _v2(group: Path) -> float:
    limit, _, period = _read(group / "cpu.max").partition(" ")
    return _ratio(limit, period)


def _v1(group: Path) -> float:
    return _ratio(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))


def _ratio(limit: str, period: str) -> float:
    if not (limit.isdigit() and period.isdigit() and int(period)):
        return math.inf  # "max", -1, or no such file
    return int(limit) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
