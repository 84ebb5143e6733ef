"""The folder of adapters on disk: who has it, what is whole in it, and how an adapter comes into its place."""

import fcntl
import hashlib
import os
import shutil
from collections import OrderedDict
from pathlib import Path

from services.common.adapters.version import CONFIG, DIGEST, WEIGHTS, AdapterVersion

FETCHING = ".fetching-"
DELETED = ".deleted-"
"""What folders begin with that hold what is not whole yet, or no more."""


class FolderInUseError(Exception):
    """Another worker keeps its adapters in this folder."""


def lock(folder: Path) -> int:
    """A descriptor that keeps other processes out until it is closed, if only by the end of this one."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise FolderInUseError(f"{folder} is in use by another worker; give each its own") from None
    return descriptor


def recover(folder: Path) -> OrderedDict[str, int]:
    """Sizes of the adapters that are whole, the oldest first. Removes what is not."""
    found: list[tuple[float, str, int]] = []
    for entry in folder.iterdir():
        if DIGEST.fullmatch(entry.name):
            files = [entry / CONFIG, entry / WEIGHTS]
            if all(path.is_file() for path in files):
                size = sum(path.stat().st_size for path in files)
                found.append((entry.stat().st_mtime, entry.name, size))
            else:
                shutil.rmtree(entry)
        elif entry.name.startswith((FETCHING, DELETED)):
            shutil.rmtree(entry)
    return OrderedDict((digest, size) for _, digest, size in sorted(found))


def sync(files: Path) -> None:
    for path in (files / CONFIG, files / WEIGHTS, files):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def put_in_place(files: Path, target: Path) -> None:
    try:
        files.rename(target)
    except OSError:
        # The same content from another repo, or for another deployment, was there first.
        if not target.is_dir():
            raise


def sums_match(folder: Path, version: AdapterVersion) -> bool:
    return (
        sha256(folder / CONFIG) == version.config_sha256
        and sha256(folder / WEIGHTS) == version.weights_sha256
    )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
