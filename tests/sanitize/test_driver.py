"""The quickest part of `make sanitize`; and what it is for, that a fault does not pass."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from services.worker.engine.local.native.kernels.build import usable_isas
from tests.sanitize.builds import (
    ADDRESS,
    SOURCES,
    THREAD,
    Sanitizer,
    compile_driver,
    missing,
    run_driver,
    short_buffers_unnoticed,
)

BEST = usable_isas()[0]
MODE = BEST.modes[-1]

# Not optimised, these compile in a third of the time.
NOTHING = Sanitizer("nothing", ("-O0",), {})
QUICK_THREAD = replace(THREAD, flags=(*THREAD.flags, "-O0"))


def skip_unless_there_is(sanitizer: Sanitizer, folder: Path) -> None:
    if why := missing(sanitizer, folder):
        pytest.skip(why)


def with_fault(folder: Path, source: str, line: str, faulty: str) -> Path:
    """The kernels' sources, of which one says something else."""
    sources = folder / "csrc"
    shutil.copytree(SOURCES, sources)
    text = (sources / source).read_text()
    assert text.count(line) == 1, f"{source} has changed: put the fault elsewhere"
    (sources / source).write_text(text.replace(line, faulty))
    return sources


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sanitize")
    skip_unless_there_is(ADDRESS, folder)
    return compile_driver(BEST, MODE, ADDRESS, folder)


def test_the_kernels_stay_in_bounds_and_come_to_the_same_on_two_threads(driver: Path) -> None:
    ended = run_driver(driver, ADDRESS, ["--quick", "2"])
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_buffer_one_element_short_is_noticed(driver: Path) -> None:
    """`make sanitize` does this with every buffer that there is."""
    buffers = ["weight", "lora a", "lora b", "runs", "blocks", "slots", "keys", "values", "qkv", "normed"]
    buffers += ["logits", "seen count", "top logprob", "packed"]
    assert short_buffers_unnoticed(driver, buffers) == []


def test_a_buffer_that_the_driver_does_not_have_counts_as_unnoticed(driver: Path) -> None:
    assert short_buffers_unnoticed(driver, ["weights"]) == ["weights"]


def test_a_race_is_noticed(tmp_path: Path) -> None:
    skip_unless_there_is(THREAD, tmp_path)
    sources = with_fault(tmp_path, "rowwise.h", "rooms + member.id() * room)", "rooms)")
    driver = compile_driver(BEST, MODE, QUICK_THREAD, tmp_path, sources=sources)
    # A worker that has no core for as long as a call takes does not take part: many calls, of which some are shared.
    ended = run_driver(driver, THREAD, ["--quick", "2", "3", "5"])
    assert ended.returncode != 0
    assert "data race" in ended.stderr


def test_results_that_depend_on_the_number_of_threads_are_noticed(tmp_path: Path) -> None:
    skip_unless_there_is(NOTHING, tmp_path)
    sources = with_fault(tmp_path, "rowwise.h", "(job.eps), job.n,", "(job.eps * job.threads), job.n,")
    ended = run_driver(
        compile_driver(BEST, MODE, NOTHING, tmp_path, sources=sources), NOTHING, ["--quick", "2"]
    )
    assert ended.returncode == 1
    assert ended.stderr == "sanitize: forward: plain, 4 sequences: 1 and 2 threads differ\n"
