"""Compiles the kernels at first start, for the CPU at hand, and keeps the result.

The library lies in `$LORAMUX_HOME/kernels`, named by a hash of all that shaped it, so a change of sources, compiler,
flags or machine makes a new one and an old one is never mistaken for it. Its name is no secret, and what lies there
runs inside the worker: a folder or a file that others own or can write is not used.
"""

import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from loramux.profile import home
from services.common.logs import get_logger

_log = get_logger(__name__)

_SOURCES = Path(__file__).parent / "csrc"
_COMMON_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math")
_COMPILE_SECONDS = 600
_SEAL_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Mode:
    """How numbers are stored and multiplied; see microkernel.h."""

    name: str
    dtype: torch.dtype
    cpp_class: str


FLOAT32 = Mode("f32", torch.float32, "Float32")
WIDENED = Mode("widened", torch.bfloat16, "Bf16Widened")
DOT = Mode("dot", torch.bfloat16, "Bf16Dot")


@dataclass(frozen=True)
class Isa:
    """Instructions that the compiler may use."""

    name: str
    needs: tuple[str, ...]
    """Features of the CPU, in the words of torch.cpu.get_capabilities."""
    flags: tuple[str, ...]
    modes: tuple[Mode, ...]


_AVX512_FLAGS = (
    "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mprefer-vector-width=512",
)  # fmt: skip
_AVX512_NEEDS = ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx2", "fma3")

ISAS = (
    Isa(
        "avx512_bf16",
        (*_AVX512_NEEDS, "avx512_bf16"),
        (*_AVX512_FLAGS, "-mavx512bf16"),
        (FLOAT32, WIDENED, DOT),
    ),
    Isa("avx512", _AVX512_NEEDS, _AVX512_FLAGS, (FLOAT32, WIDENED)),
    Isa("avx2", ("avx2", "fma3"), ("-mavx2", "-mfma"), (FLOAT32, WIDENED)),
    Isa("portable", (), (), (FLOAT32, WIDENED)),
)
"""Best first. The last one is whatever the compiler makes without being told, NEON on ARM among it."""


def usable_isas() -> list[Isa]:
    """What this CPU runs, best first."""
    features = torch.cpu.get_capabilities()
    return [isa for isa in ISAS if all(features.get(need) for need in isa.needs)]


def flags_of(isa: Isa, mode: Mode) -> list[str]:
    """What the compiler is told of one object, the one of `mode`."""
    return [*_COMMON_FLAGS, *isa.flags, f"-DLM_MODE={mode.cpp_class}", f"-DLM_SUFFIX={mode.name}"]


def build(isa: Isa) -> Path | None:
    """The compiled library, made now where it is not there yet.

    None, after one warning, where there is no compiler, or it fails, or what is there is not to be trusted. Processes
    that start at the same time compile once.
    """
    try:
        compiler = _find_compiler()
        folder = _private_folder()
        library = folder / f"{_fingerprint(compiler, isa)}.so"
        if not _is_whole(library):
            with _lock(library.with_suffix(".lock")):
                if not _is_whole(library):
                    _compile(compiler, isa, library)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        _log.warning("kernels_not_compiled", isa=isa.name, reason=_reason(error))
        return None
    return library


def _private_folder() -> Path:
    folder = home() / "kernels"
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    check_private(folder)
    return folder


def _is_whole(library: Path) -> bool:
    """Whether it is there with all its bytes: to load one that a power cut has torn would end the process.

    Raises PermissionError for one that is not to be trusted.
    """
    try:
        check_private(library)
        data = library.read_bytes()
    except FileNotFoundError:
        return False
    return hashlib.sha256(data[:-_SEAL_BYTES]).digest() == data[-_SEAL_BYTES:]


def _seal(library: Path) -> None:
    """Put a digest of its bytes behind them, where the loader does not look, and all of it on the disk."""
    with library.open("r+b") as file:
        digest = hashlib.sha256(file.read()).digest()
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())


def check_private(path: Path) -> None:
    """Raise PermissionError unless this user or root owns it and nobody else can write it."""
    found = path.lstat()
    if found.st_uid not in (os.geteuid(), 0):
        raise PermissionError(f"{path} belongs to user {found.st_uid}, who could have put anything there")
    if stat.S_ISLNK(found.st_mode) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} must be writable by its owner alone (chmod go-w), and no link")


def _find_compiler() -> list[str]:
    given = shlex.split(os.environ.get("CXX", ""))
    names = [given[0]] if given else ["g++", "clang++", "c++"]
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise FileNotFoundError(f"no C++ compiler: looked for {', '.join(names)}")
    return [found, *given[1:]]


def _fingerprint(compiler: Sequence[str], isa: Isa) -> str:
    version = subprocess.run([*compiler, "--version"], check=True, capture_output=True, timeout=60).stdout  # noqa: S603
    digest = hashlib.sha256()
    for part in (*compiler, platform.machine(), isa.name, *_COMMON_FLAGS, *isa.flags):
        digest.update(part.encode() + b"\0")
    digest.update(version)
    for source in sorted(_SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def _compile(compiler: Sequence[str], isa: Isa, library: Path) -> None:
    """Compile one object a mode, side by side, link them, and move the library into place in one rename."""
    _log.info("kernels_compiling", isa=isa.name, compiler=compiler[0])
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        objects = [Path(folder) / f"{mode.name}.o" for mode in isa.modes]
        commands = [
            [*compiler, *flags_of(isa, mode), "-c", str(_SOURCES / "kernels.cpp"), "-o", str(made)]
            for mode, made in zip(isa.modes, objects, strict=True)
        ]
        _run_all(commands)
        linked = Path(folder) / library.name
        _run_all([[*compiler, "-shared", "-pthread", *map(str, objects), "-o", str(linked)]])
        linked.chmod(0o700)  # whatever the umask
        _seal(linked)
        linked.replace(library)


def _run_all(commands: Sequence[Sequence[str]]) -> None:
    running = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # noqa: S603
        for command in commands
    ]
    try:
        for process in running:
            _, errors = process.communicate(timeout=_COMPILE_SECONDS)
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args, stderr=errors)
    finally:
        for process in running:
            process.kill()
            process.wait()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        # The first line that speaks of an error says more than the last.
        lines = str(error.stderr).splitlines()
        return next((line for line in lines if "error" in line), lines[0])[:500]
    return str(error)
