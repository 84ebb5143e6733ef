"""Repositories as folders: what they hold at which commit, and who may read them."""

import hashlib
import json
import re
import shutil
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DEFAULT_BRANCH = "main"

_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_LFS_SUFFIXES = frozenset(
    {".safetensors", ".bin", ".gguf", ".pt", ".pth", ".ckpt", ".h5", ".onnx", ".msgpack"}
)
_CHUNK_BYTES = 1 << 20
# Two writes within one tick of the file system's clock leave the same time behind.
_CLOCK_TICK_NS = 100_000_000


class HubRootError(Exception):
    """The hub's folder is not laid out as it must be; the message names the file and what is wrong."""


@dataclass(frozen=True)
class StoredFile:
    """One file of a snapshot, at a path that nothing writes to any more."""

    path: str
    """Relative to the repository, with forward slashes."""
    size: int
    sha256: str
    blob_id: str
    """Git's object id: of the content, or of the pointer where the file is in LFS."""
    lfs_pointer_size: int | None
    """Bytes of the LFS pointer; None for a file that is not in LFS."""
    blob: Path

    @property
    def etag(self) -> str:
        """As the Hub's: the SHA-256 of files in LFS, git's object id of others."""
        return self.sha256 if self.lfs_pointer_size is not None else self.blob_id


@dataclass(frozen=True)
class Snapshot:
    """A repository's files at one commit."""

    commit: str
    """40 hex digits, a digest of the paths and contents."""
    files: Mapping[str, StoredFile]
    """By path, in order of path."""
    last_modified: datetime

    def folders(self) -> Iterator[str]:
        """Every folder that holds a file, at any depth; the repository's own is not among them."""
        seen: set[str] = set()
        for path in self.files:
            parts = path.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                folder = "/".join(parts[:depth])
                if folder not in seen:
                    seen.add(folder)
                    yield folder


@dataclass(frozen=True)
class RepoInfo:
    """Who may read a repository."""

    repo_id: str
    private: bool = False
    """Anybody else is told that it does not exist."""
    gated: bool = False
    """Anybody may see its file list; only those allowed may fetch files."""
    allowed_users: frozenset[str] | None = None
    """Who may read a private or gated repository; None means every user with a token."""

    def allows(self, user: str | None) -> bool:
        """Whether `user` (None: anonymous) is one of those a private or gated repository is open to."""
        return user is not None and (self.allowed_users is None or user in self.allowed_users)


@dataclass(frozen=True)
class _Stamp:
    """What tells that a file on disk is still the one that was read."""

    inode: int
    size: int
    mtime_ns: int


@dataclass
class _Repo:
    commits: dict[str, Snapshot] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    read: dict[str, tuple[_Stamp, int, StoredFile]] = field(default_factory=dict)
    """By path: the stamp, when it was read (ns), and what was read."""


class RepoStore:
    """Reads repositories under `root`, and keeps every commit that was ever asked for.

    Files are copied aside when they are first read, so that a commit goes on serving the bytes that it is a
    digest of, whatever is edited afterwards. Safe to call from several threads.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._repos: dict[str, _Repo] = {}
        self._blobs = tempfile.TemporaryDirectory(prefix="loramux-hub-")

    def close(self) -> None:
        """Drop the copies."""
        self._blobs.cleanup()

    def users(self) -> Mapping[str, str]:
        """User names by token, from `tokens.toml`. Raises HubRootError."""
        table = _read_toml(self.root / "tokens.toml")
        for token, user in table.items():
            if not isinstance(user, str) or not user:
                raise HubRootError(
                    f"{self.root / 'tokens.toml'}: token {token[:6]}... must name a user, as text"
                )
        return table

    def repo_ids(self) -> list[str]:
        """Every repository under the root, in order."""
        found = []
        for folder in self.root.glob("*/*/"):
            repo_id = f"{folder.parent.name}/{folder.name}"
            if is_repo_id(repo_id):
                found.append(repo_id)
        return sorted(found)

    def info(self, repo_id: str) -> RepoInfo | None:
        """Who may read it; None where there is no such repository. Raises HubRootError."""
        if not is_repo_id(repo_id) or not (self.root / repo_id).is_dir():
            return None
        return _read_sidecar(repo_id, self.root / f"{repo_id}.hub.toml")

    def snapshot(self, repo_id: str, revision: str = "") -> Snapshot | None:
        """The files at a branch, tag or commit; None where the repository has no such revision.

        Only commits that were current when somebody asked are known.
        """
        with self._lock:
            repo = self._repos.setdefault(repo_id, _Repo())
            current = self._read(repo_id, repo)
            repo.commits.setdefault(current.commit, current)
            if revision in ("", DEFAULT_BRANCH, f"refs/heads/{DEFAULT_BRANCH}"):
                return current
            return repo.commits.get(repo.tags.get(revision, revision))

    def tag(self, repo_id: str, name: str) -> str:
        """Give the current commit a name of its own; returns the commit."""
        current = self.snapshot(repo_id)
        if current is None:
            raise KeyError(repo_id)
        with self._lock:
            self._repos[repo_id].tags[name] = current.commit
        return current.commit

    def _read(self, repo_id: str, repo: _Repo) -> Snapshot:
        folder = self.root / repo_id
        files: dict[str, StoredFile] = {}
        newest = 0
        for place in sorted(folder.rglob("*")):
            path = place.relative_to(folder).as_posix()
            if any(part.startswith(".") for part in path.split("/")) or not place.is_file():
                continue
            stat = place.stat()
            newest = max(newest, stat.st_mtime_ns)
            stamp = _Stamp(stat.st_ino, stat.st_size, stat.st_mtime_ns)
            known = repo.read.get(path)
            if known is not None and known[0] == stamp and stamp.mtime_ns + _CLOCK_TICK_NS < known[1]:
                files[path] = known[2]
                continue
            read_at = time.time_ns()
            files[path] = self._keep(path, place)
            repo.read[path] = (stamp, read_at, files[path])
        digest = hashlib.sha1(usedforsecurity=False)
        for stored in files.values():
            digest.update(f"{stored.path}\0{stored.sha256}\n".encode())
        return Snapshot(digest.hexdigest(), files, datetime.fromtimestamp(newest / 1e9, UTC))

    def _keep(self, path: str, place: Path) -> StoredFile:
        """Copy a file aside, named by its digest, hashing what is copied and not what is there later."""
        blobs = Path(self._blobs.name)
        sha256 = hashlib.sha256()
        size = 0
        with place.open("rb") as source, tempfile.NamedTemporaryFile(dir=blobs, delete=False) as copy:
            while chunk := source.read(_CHUNK_BYTES):
                sha256.update(chunk)
                copy.write(chunk)
                size += len(chunk)
        blob = blobs / sha256.hexdigest()
        Path(copy.name).replace(blob)
        pointer = None
        if place.suffix in _LFS_SUFFIXES:
            pointer = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256.hexdigest()}\nsize {size}\n"
            ).encode()
        return StoredFile(
            path=path,
            size=size,
            sha256=sha256.hexdigest(),
            blob_id=_git_blob_id(blob.read_bytes() if pointer is None else pointer),
            lfs_pointer_size=None if pointer is None else len(pointer),
            blob=blob,
        )


def is_repo_id(text: str) -> bool:
    """Whether this is `owner/name` as the Hub allows it, and stays inside the hub's folder."""
    return _REPO_ID.fullmatch(text) is not None and ".." not in text


def write_files(folder: Path, files: Mapping[str, bytes] | Path) -> None:
    """Make `folder` hold exactly these files."""
    if folder.exists():
        shutil.rmtree(folder)
    if isinstance(files, Path):
        shutil.copytree(files, folder)
        return
    folder.mkdir(parents=True)
    for path, content in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def write_sidecar(root: Path, info: RepoInfo) -> None:
    """Write down who may read a repository, where that is not everybody."""
    lines = [f"private = {str(info.private).lower()}", f"gated = {str(info.gated).lower()}"]
    if info.allowed_users is not None:
        lines.append(f"allowed_users = {json.dumps(sorted(info.allowed_users))}")
    place = root / f"{info.repo_id}.hub.toml"
    if info == RepoInfo(info.repo_id):
        place.unlink(missing_ok=True)
    else:
        place.write_text("\n".join(lines) + "\n")


def write_users(root: Path, users: Mapping[str, str]) -> None:
    """Write `tokens.toml`, readable by its owner alone."""
    place = root / "tokens.toml"
    place.touch(mode=0o600)
    place.write_text("".join(f"{json.dumps(token)} = {json.dumps(user)}\n" for token, user in users.items()))


def _read_sidecar(repo_id: str, place: Path) -> RepoInfo:
    table = _read_toml(place)
    unknown = table.keys() - {"private", "gated", "allowed_users"}
    if unknown:
        raise HubRootError(
            f"{place}: unknown key {min(unknown)!r}; known are private, gated and allowed_users"
        )
    for key in ("private", "gated"):
        if not isinstance(table.get(key, False), bool):
            raise HubRootError(f"{place}: {key} is {table[key]!r}; it must be true or false")
    allowed = table.get("allowed_users")
    if allowed is not None and not (
        isinstance(allowed, list) and all(isinstance(one, str) for one in allowed)
    ):
        raise HubRootError(f"{place}: allowed_users is {allowed!r}; it must be a list of user names")
    return RepoInfo(
        repo_id=repo_id,
        private=table.get("private", False),
        gated=table.get("gated", False),
        allowed_users=None if allowed is None else frozenset(allowed),
    )


def _read_toml(place: Path) -> dict[str, Any]:  # Any: TOML values, checked by the callers
    try:
        return tomllib.loads(place.read_text())
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HubRootError(f"{place}: {error}") from None


def _git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
