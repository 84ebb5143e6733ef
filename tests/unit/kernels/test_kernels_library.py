"""The kernels' library: what lies in its folder is trusted only where nobody else could have put it there."""

import ctypes
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from services.worker.engine.local.native.kernels import (
    PackedLinear,
    Site,
    build,
    library,
    load_kernels,
    structs,
)
from services.worker.engine.local.native.kernels.build import FLOAT32, Isa, Mode
from tests.support.kernels import kernels_of, random

TYPES = (build._SOURCES / "types.h").read_text()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty one."""
    monkeypatch.setenv("LORAMUX_HOME", str(tmp_path / "home"))
    library._load.cache_clear()
    yield tmp_path / "home" / "kernels"
    library._load.cache_clear()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Isa:
    """One mode of the plainest instructions, not optimised: it compiles in a second or two."""
    monkeypatch.setattr(build, "_COMMON_FLAGS", (*build._COMMON_FLAGS, "-O0"))
    return Isa("quick", (), (), (FLOAT32,))


def loads(isa: Isa) -> bool:
    library._load.cache_clear()
    return load_kernels(torch.float32, threads=1, isa=isa) is not None


def test_the_folder_and_the_library_are_its_owners_alone(folder: Path, quick: Isa) -> None:
    before = os.umask(0)
    try:
        path = build.build(quick)
    finally:
        os.umask(before)
    assert path is not None
    assert folder.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("what", ["folder", "library"])
@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_what_others_can_write_is_not_loaded(folder: Path, quick: Isa, what: str, mode: int) -> None:
    path = build.build(quick)
    assert path is not None
    (folder if what == "folder" else path).chmod(mode)
    assert build.build(quick) is None
    assert not loads(quick)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("what", ["folder", "library"])
def test_what_others_own_is_not_loaded(folder: Path, quick: Isa, what: str) -> None:
    path = build.build(quick)
    assert path is not None
    os.chown(folder if what == "folder" else path, 65534, 65534)
    assert not loads(quick)


def test_a_link_is_not_followed(folder: Path, quick: Isa, tmp_path: Path) -> None:
    path = build.build(quick)
    assert path is not None
    path.rename(tmp_path / "elsewhere.so")
    path.symlink_to(tmp_path / "elsewhere.so")
    assert not loads(quick)


@pytest.mark.parametrize("damage", ["torn", "empty", "another library"])
def test_a_damaged_library_is_made_anew(folder: Path, quick: Isa, damage: str) -> None:
    path = build.build(quick)
    assert path is not None
    whole = path.read_bytes()
    data = {"torn": whole[: len(whole) // 2], "empty": b"", "another library": _another_library(folder)}
    path.write_bytes(data[damage])
    assert loads(quick)
    assert path.read_bytes() != data[damage]


def _another_library(folder: Path) -> bytes:
    source = folder.parent / "another.cpp"
    source.write_text('extern "C" int another() { return 7; }')
    made = folder.parent / "another.so"
    subprocess.run(["g++", "-shared", "-fPIC", str(source), "-o", str(made)], check=True)
    return made.read_bytes()


def test_a_compiler_that_does_not_know_the_best_instructions_makes_lesser_ones(
    folder: Path, quick: Isa, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = Isa("newer", (), ("-mthis-is-not-known-yet",), (FLOAT32,))
    monkeypatch.setattr(build, "usable_isas", lambda: [newer, quick])
    kernels = load_kernels(torch.float32, threads=1)
    assert kernels is not None
    assert kernels.isa is quick


def test_words_that_are_no_command_are_a_machine_without_a_compiler(
    folder: Path, quick: Isa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", '"g++')
    assert build.build(quick) is None


def test_processes_that_start_at_once_compile_once(folder: Path) -> None:
    code = (
        "from services.worker.engine.local.native.kernels import build; "
        "build._COMMON_FLAGS = (*build._COMMON_FLAGS, '-O0'); "
        "print(build.build(build.Isa('quick', (), (), (build.FLOAT32,))))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert sum("kernels_compiling" in one for one in said) == 1
    (path,) = {one.splitlines()[-1] for one in said}
    assert Path(path).exists()


def test_python_has_the_structs_of_the_header_field_by_field() -> None:
    """Their sizes are compared when a library is loaded; a swap of two fields would not show there."""
    in_header = {}
    for name, body in re.findall(r"struct Lm(\w+) \{(.*?)\n\};", TYPES, re.DOTALL):
        lines = [line.partition("//")[0].strip() for line in body.splitlines()]
        in_header[name] = [
            re.sub(r"\[.*", "", line.rstrip(";").split()[-1]).lstrip("*") for line in lines if line
        ]
    in_python = {struct.__name__: [field[0] for field in struct._fields_] for struct in structs.ALL}
    assert in_python == in_header


def test_a_library_whose_structs_are_others_is_not_used(
    folder: Path, quick: Isa, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Norm(ctypes.Structure):
        _fields_ = [("x", ctypes.c_int64)]

    monkeypatch.setattr(structs, "ALL", [Norm])
    assert not loads(quick)


def _multiplies(way: tuple[Isa, Mode]) -> bool:
    kernels = kernels_of(way)
    linear = PackedLinear(kernels, Site(0, 64, (64,)), [torch.eye(64).to(kernels.dtype)])
    x = random(kernels, 40, 64)
    return torch.equal(linear(x), x)


def test_a_fork_has_threads_of_its_own() -> None:
    """A child has the memory of a team and none of its threads; before, it waited for them for ever."""
    best = build.usable_isas()[0]
    way = (best, best.modes[0])
    assert _multiplies(way)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_multiplies, (way,)).get(timeout=30)
    assert _multiplies(way)
