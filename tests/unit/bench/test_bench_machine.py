"""What the benchmarks do to the machine: a neighbour that takes a core, and files out of memory."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import page_cache
from bench.busy_process import BusyProcess


def state(pid: int) -> str:
    """R, S or T, as /proc has it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def becomes(pid: int, states: str) -> bool:
    for _ in range(500):
        if state(pid) in states:
            return True
        time.sleep(0.01)
    return False


def test_a_busy_process_runs_only_while_it_is_to_and_ends_with_its_context() -> None:
    with BusyProcess(nice=19) as process:
        assert becomes(process.pid, "T")
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
        # Of another session, its priority would mean nothing beside ours.
        assert os.getsid(process.pid) == os.getsid(0)
        with process.busy():
            assert becomes(process.pid, "R")
        assert becomes(process.pid, "T")
        pid = process.pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_busy_process_does_not_outlive_a_parent_that_is_killed() -> None:
    program = (
        "import os, signal\nfrom bench.busy_process import BusyProcess\n"
        "process = BusyProcess(19).__enter__()\nos.kill(process.pid, signal.SIGCONT)\n"
        "print(process.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False, timeout=60)
    pid = int(ran.stdout)
    # Nobody may wait for it but the init of this container, which perhaps does not.
    for _ in range(2_000):
        if not Path(f"/proc/{pid}").exists() or state(pid) == "Z":
            return
        time.sleep(0.01)
    os.kill(pid, 9)
    pytest.fail("it goes on")


def test_a_file_that_is_dropped_is_in_memory_no_more(tmp_path: Path) -> None:
    """Engine review E5: an adapter on disk was one in memory."""
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(1 << 20))  # not written to disk yet
    assert page_cache.resident_share(path) == 1.0
    page_cache.drop(path)
    left = page_cache.resident_share(path)
    if left == 1.0:
        pytest.skip("the file system keeps its files in memory")
    assert left == 0.0
    path.read_bytes()
    assert page_cache.resident_share(path) == 1.0
