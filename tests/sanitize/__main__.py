"""The kernels under sanitizers, on every way of multiplying that this CPU has: `make sanitize`.

Ends with 1 where a sanitizer, or the driver itself, has found something, and where a buffer that is one element too short
goes unnoticed.
"""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from services.worker.engine.local.native.kernels.build import Isa, Mode, usable_isas
from tests.sanitize.builds import (
    ADDRESS,
    THREAD,
    Sanitizer,
    compile_driver,
    missing,
    run_driver,
    short_buffers_unnoticed,
)

THREADS = ("2", "3", "5")
SANITIZERS = (ADDRESS, THREAD)


@dataclass(frozen=True)
class Case:
    """One program."""

    isa: Isa
    mode: Mode
    sanitizer: Sanitizer

    @property
    def name(self) -> str:
        return f"{self.isa.name} {self.mode.name} {self.sanitizer.name}"


def main() -> int:
    cases = [
        Case(isa, mode, sanitizer) for isa in usable_isas() for mode in isa.modes for sanitizer in SANITIZERS
    ]
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        folder = Path(name)
        if lacks := [why for sanitizer in SANITIZERS if (why := missing(sanitizer, folder))]:
            print(*lacks, sep="\n")
            return 1
        found = list(pool.map(lambda case: _check(case, folder), cases))
        unnoticed = _unnoticed(next(case for case in cases if case.sanitizer is ADDRESS), folder)
    return int(unnoticed or not all(found))


def _check(case: Case, folder: Path) -> bool:
    """Whether nothing is found."""
    began = time.monotonic()
    try:
        driver = compile_driver(case.isa, case.mode, case.sanitizer, folder)
        ended = run_driver(driver, case.sanitizer, THREADS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return _report(case.name, str(error.stderr or error), began)
    return _report(
        case.name, (ended.stderr or f"status {ended.returncode}") if ended.returncode else "", began
    )


def _unnoticed(case: Case, folder: Path) -> bool:
    """Whether the driver would not have seen a buffer that is too short. What this says of it holds for its other builds."""
    began = time.monotonic()
    driver = folder / case.name.replace(" ", "-")
    if not driver.exists():
        return True
    buffers = run_driver(driver, ADDRESS, ["--quick", "--buffers", "2"]).stdout.splitlines()
    bad = short_buffers_unnoticed(driver, buffers) if buffers else ["the list of them"]
    return not _report(f"{len(buffers)} buffers too short by one", f"unnoticed: {bad}" if bad else "", began)


def _report(what: str, found: str, began: float) -> bool:
    """Print a line, and under it what was found; returns whether that is nothing."""
    print(f"{what:32} {'FOUND' if found else 'nothing'} {time.monotonic() - began:6.0f} s", flush=True)
    if found:
        print(found, flush=True)
    return not found


if __name__ == "__main__":
    sys.exit(main())
