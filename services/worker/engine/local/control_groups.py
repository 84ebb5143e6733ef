"""What the control groups of this process limit: a container's share of the machine."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

GROUPS = Path("/proc/self/cgroup")
"""The kernel's list of them."""
ROOT = Path("/sys/fs/cgroup")
"""Where they are mounted."""


@dataclass(frozen=True)
class ControlGroup:
    """One that this process is in, or one above it, whose limits count too."""

    folder: Path
    is_unified: bool
    """Of the second interface, whose files have other names than the first one's."""

    def read(self, name: str) -> str:
        """A file of it, stripped; empty where there is none."""
        return read(self.folder / name)

    def number(self, name: str) -> int | None:
        """A file that holds one number; None where it holds none, or there is no such file."""
        text = self.read(name)
        return int(text) if text.isdigit() else None

    def counts(self, name: str) -> dict[str, int]:
        """A file of names and numbers; what is anything else in it is passed over."""
        pairs = (line.split() for line in self.read(name).splitlines())
        return {
            pair[0]: int(pair[1])
            for pair in pairs
            if len(pair) == len(("name", "number")) and pair[1].isdigit()
        }


def control_groups(controller: str, groups: Path = GROUPS, root: Path = ROOT) -> Iterator[ControlGroup]:
    """All that limit this process by `controller`: cpu, memory. Inside a container its own is the root."""
    for line in read(groups).splitlines():
        parts = line.split(":", 2)
        if len(parts) < len(("hierarchy", "controllers", "path")):
            continue
        _, controllers, path = parts
        if not controllers:
            yield from _with_those_above(root, path, is_unified=True)
        elif controller in controllers.split(","):
            for name in dict.fromkeys((controllers, controller)):
                yield from _with_those_above(root / name, path, is_unified=False)


def _with_those_above(root: Path, path: str, *, is_unified: bool) -> Iterator[ControlGroup]:
    yield ControlGroup(root, is_unified)
    here = root / path.lstrip("/")
    while here != root and root in here.parents:
        yield ControlGroup(here, is_unified)
        here = here.parent


def read(path: Path) -> str:
    """A file's text, stripped; empty where it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
