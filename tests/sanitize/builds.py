"""The kernels and their driver, compiled for a sanitizer to watch, and run."""

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from services.worker.engine.local.native.kernels import build
from services.worker.engine.local.native.kernels.build import Isa, Mode

SOURCES = build._SOURCES
_DRIVER = Path(__file__).parent / "driver"
_RUN_SECONDS = 600
# After the library's own, whose -O3 the first undoes: to optimise what sanitizers add takes minutes.
_FLAGS = ("-O1", "-g1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")


@dataclass(frozen=True)
class Sanitizer:
    """What watches."""

    name: str
    flags: tuple[str, ...]
    environment: dict[str, str] = field(hash=False)


ADDRESS = Sanitizer(
    "address",
    ("-fsanitize=address,undefined", "-DLM_GUARD_SCRATCH"),
    {
        # Who comes too late finds the call's own variables gone.
        "ASAN_OPTIONS": "halt_on_error=1:detect_stack_use_after_return=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    },
)
"""Bounds, use after free, leaks and undefined behaviour; in scratch.h also the bounds of pieces."""
THREAD = Sanitizer(
    "thread",
    ("-fsanitize=thread",),
    # The driver forks while a team waits, and its children make teams of their own.
    {"TSAN_OPTIONS": "halt_on_error=1:die_after_fork=0"},
)
"""Data races. It knows nothing of futexes and need not: whoever sleeps on one goes on by an atomic number that it sees."""


def missing(sanitizer: Sanitizer, folder: Path) -> str | None:
    """Why nothing can be built for `sanitizer` here; None where it can. `folder`: for a program that does nothing."""
    program = folder / f"nothing-{sanitizer.name}.cpp"
    program.write_text("int main() {}\n")
    made = program.with_suffix("")
    try:
        build._run_all([[*build._find_compiler(), *sanitizer.flags, str(program), "-o", str(made)]])
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return f"no {sanitizer.name} sanitizer here: {build._reason(error)}"
    return None


def compile_driver(
    isa: Isa, mode: Mode, sanitizer: Sanitizer, folder: Path, *, sources: Path = SOURCES
) -> Path:
    """A program in `folder`. `sources`: the kernels. Raises CalledProcessError, whose stderr says why."""
    compiler = build._find_compiler()
    flags = [*build.flags_of(isa, mode), *_FLAGS, *sanitizer.flags, f"-I{sources}"]
    made = folder / f"{isa.name}-{mode.name}-{sanitizer.name}"
    parts = (sources / "kernels.cpp", _DRIVER / "driver.cpp")
    objects = [made.with_suffix(f".{part.stem}.o") for part in parts]
    build._run_all(
        [[*compiler, *flags, "-c", str(part), "-o", str(to)] for part, to in zip(parts, objects, strict=True)]
    )
    build._run_all([[*compiler, *flags, *map(str, objects), "-o", str(made)]])
    return made


def run_driver(
    driver: Path, sanitizer: Sanitizer, arguments: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """What came of it; driver.cpp says what `arguments` mean. Raises TimeoutExpired."""
    return subprocess.run(
        [str(driver), *arguments],
        env={**os.environ, **sanitizer.environment},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_RUN_SECONDS,
        check=False,
    )


def short_buffers_unnoticed(driver: Path, buffers: Sequence[str]) -> list[str]:
    """Of `buffers`, those that may be one element too short without a report from a kernel of a driver for ADDRESS."""

    def unnoticed(buffer: str) -> bool:
        found = run_driver(driver, ADDRESS, ["--quick", "--short", buffer, "2"])
        frame = next((line for line in found.stderr.splitlines() if line.lstrip().startswith("#0 ")), "")
        return not (found.returncode and "ERROR: AddressSanitizer" in found.stderr and "lm::" in frame)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [buffer for buffer, bad in zip(buffers, pool.map(unnoticed, buffers), strict=True) if bad]
