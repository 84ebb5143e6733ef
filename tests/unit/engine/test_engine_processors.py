"""How many threads a step gets: by affinity, by a container's limit, by physical cores."""

import os
from pathlib import Path

import pytest

from services.worker.engine.local.engine_config import EngineConfig
from services.worker.engine.local.processors import (
    most_threads,
    physical_cores,
    quota,
    usable_processors,
)

MANY = 1 << 16


def write(root: Path, **files: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name.replace("__", ".")).write_text(text + "\n")


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("max 100000", MANY), ("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("", MANY)],
)
def test_the_limit_of_a_container(tmp_path: Path, text: str, cpus: int) -> None:
    write(tmp_path, groups="0::/")
    write(tmp_path / "root", cpu__max=text)
    assert quota(tmp_path / "groups", tmp_path / "root") == cpus


def test_a_limit_further_up_counts_too(tmp_path: Path) -> None:
    write(tmp_path, groups="0::/pod/container")
    write(tmp_path / "root" / "pod" / "container", cpu__max="800000 100000")
    write(tmp_path / "root" / "pod", cpu__max="300000 100000")
    assert quota(tmp_path / "groups", tmp_path / "root") == 3


@pytest.mark.parametrize(("limit", "cpus"), [("-1", MANY), ("250000", 3)])
def test_the_limit_of_an_older_kernel(tmp_path: Path, limit: str, cpus: int) -> None:
    write(tmp_path, groups="5:memory:/x\n4:cpu,cpuacct:/docker/1")
    write(tmp_path / "root" / "cpu,cpuacct", cpu__cfs_quota_us=limit, cpu__cfs_period_us="100000")
    assert quota(tmp_path / "groups", tmp_path / "root") == cpus


def test_where_nothing_is_mounted_nothing_limits(tmp_path: Path) -> None:
    assert quota(tmp_path / "groups", tmp_path / "root") == MANY


def test_siblings_are_one_core(tmp_path: Path) -> None:
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        write(tmp_path / f"cpu{cpu}" / "topology", thread_siblings_list=siblings)
    assert physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert physical_cores({0, 2, 3}, tmp_path) == 2
    assert physical_cores({0, 7, 8}, tmp_path) == 3  # of which two are not known


def test_no_more_threads_than_can_run_at_once(tmp_path: Path) -> None:
    assert 1 <= usable_processors() <= most_threads() <= len(os.sched_getaffinity(0))
    assert EngineConfig(tmp_path).resolved_threads() == usable_processors()
    assert EngineConfig(tmp_path, threads=1).resolved_threads() == 1
    assert EngineConfig(tmp_path, threads=10_000).resolved_threads() == most_threads()
