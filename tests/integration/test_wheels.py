"""Two wheels: what a client installs brings neither the services nor torch."""

import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest

from tests.support.paths import REPOSITORY

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both by name, built from a copy: a build leaves things behind."""
    folder = tmp_path_factory.mktemp("wheels")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("loramux", "services"):
        left_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True, ignore=left_out)
    for project in (source, source / "services"):
        build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(project)]
        subprocess.run(build, check=True)
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


def top_folders(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        parts = {PurePosixPath(name).parts[0] for name in archive.namelist()}
    return {part for part in parts if not part.endswith(".dist-info")}


def requirements(distribution: metadata.Distribution) -> Iterator[str]:
    """Names of what a distribution needs without any extra."""
    for line in distribution.requires or ():
        if "extra ==" not in line:
            yield re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]


def needed_by(distribution: metadata.Distribution) -> dict[str, metadata.Distribution]:
    found: dict[str, metadata.Distribution] = {}
    waiting = [distribution]
    while waiting:
        for name in requirements(waiting.pop()):
            key = re.sub(r"[-_.]+", "-", name).lower()
            if key not in found:
                found[key] = metadata.distribution(name)
                waiting.append(found[key])
    return found


def test_each_wheel_has_its_own_package_and_nothing_else(wheels: dict[str, Path]) -> None:
    assert {name: top_folders(path) for name, path in wheels.items()} == {
        "loramux": {"loramux"},
        "loramux_services": {"services"},
    }


def test_the_services_wheel_has_what_is_no_python(wheels: dict[str, Path]) -> None:
    tracked = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "services").rglob("*")
        if path.suffix in (".cpp", ".h", ".c", ".jinja", ".mako")
    }
    assert tracked
    with ZipFile(wheels["loramux_services"]) as archive:
        assert tracked <= set(archive.namelist())
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())


def test_the_client_s_wheel_alone_brings_no_services_and_no_torch(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    """Installed into an environment of its own, beside what its metadata asks for."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    (packages,) = (tmp_path / "env/lib").glob("python*/site-packages")
    subprocess.run(
        [*PIP, "install", "--no-deps", "--target", str(packages), str(wheels["loramux"])], check=True
    )
    (client,) = metadata.distributions(path=[str(packages)])
    for distribution in needed_by(client).values():
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(distribution.locate_file(top))  # type: ignore[arg-type]
    program = """
import importlib.util, sys
import loramux
client = loramux.SyncClient("127.0.0.1:1", "key")
client.close()
print([name for name in ("services", "torch", "transformers", "typer", "sqlalchemy") if importlib.util.find_spec(name)])
"""
    ran = subprocess.run(
        [str(tmp_path / "env/bin/python"), "-I", "-c", program], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "[]"), ran.stderr


def test_the_services_ask_for_the_client_of_their_own_version(wheels: dict[str, Path]) -> None:
    with ZipFile(wheels["loramux"]) as client, ZipFile(wheels["loramux_services"]) as services:
        versions, needs = [], ""
        for archive in (client, services):
            (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
            needs = archive.read(name).decode()
            versions.append(re.findall(r"^Version: (.*)$", needs, re.MULTILINE)[0])
    assert versions[0] == versions[1]
    assert f"Requires-Dist: loramux=={versions[0]}" in needs
