"""Adapters on disk: fetched from the Hub on demand, checked by their sums, within a quota, never half there."""

import asyncio
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.common import errors, logs
from services.common.adapters.version import CONFIG, DIGEST, WEIGHTS, AdapterVersion
from services.common.hub import DownloadCancelledError, HubClient
from services.worker.daemon_threads import in_daemon_thread
from services.worker.engine.interface import AdapterFiles

_FETCHING = ".fetching-"
_DELETED = ".deleted-"
_RETRY_AFTER = 2.0
_CLOSE_SECONDS = 2.0

_log = logs.get_logger(__name__)


class FolderInUseError(Exception):
    """Another worker keeps its adapters in this folder."""


class AdapterStore:
    """The folder of adapters of one worker process. Its methods belong to one event loop."""

    def __init__(
        self,
        folder: Path,
        hub: HubClient,
        hub_token: Callable[[str, str], Awaitable[str]],
        *,
        quota_bytes: int,
    ) -> None:
        """`hub_token` is asked for the token of a deployment, by uid, and of its version, by digest, when a download needs one.

        What an earlier process left half done is removed; what it left whole is used again.
        Raises FolderInUseError when another process has the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder)
        self._folder = folder
        self._hub = hub
        self._hub_token = hub_token
        self._quota = quota_bytes
        self._uses: Counter[str] = Counter()
        self._refused: set[str] = set()
        self._checked: set[str] = set()
        self._flights: dict[AdapterVersion, _Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._coming = 0
        """Bytes that downloads under way may need."""
        self._sizes: OrderedDict[str, int] = _recover(folder)
        """Bytes on disk by digest, the least recently used first."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all adapters on disk."""
        return sum(self._sizes.values())

    @asynccontextmanager
    async def hold(self, version: AdapterVersion) -> AsyncIterator[AdapterFiles]:
        """Keep an adapter's files on disk while the context lasts; fetches them first where needed.

        Raises InvalidFieldError, the errors of `services.common.hub`, PreconditionError ADAPTER_TAMPERED,
        and UnavailableError ADAPTER_CACHE_FULL while everything on disk is in use.
        """
        version.check()
        digest = version.digest
        with self._in_use(digest):
            if digest not in self._checked:
                await self._join_flight(version)
            self._sizes.move_to_end(digest)
            yield AdapterFiles(digest, self._folder / digest)

    def discard(self, digest: str) -> None:
        """Delete an adapter that proved unusable, as soon as nobody holds it."""
        self._refused.add(digest)
        if digest not in self._uses:
            self._delete(digest)

    async def close(self) -> None:
        """End what is being fetched, and leave nothing of it; waits only briefly for a Hub that does not answer."""
        for flight in self._flights.values():
            flight.stop.set()
        if self._tasks:
            _, stuck = await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)
            for task in stuck:
                task.cancel()
        for leftover in self._folder.glob(f"{_FETCHING}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        os.close(self._lock)

    @contextmanager
    def _in_use(self, digest: str) -> Iterator[None]:
        self._uses[digest] += 1
        try:
            yield
        finally:
            self._uses[digest] -= 1
            if not self._uses[digest]:
                del self._uses[digest]
                if digest in self._refused:
                    self._delete(digest)

    async def _join_flight(self, version: AdapterVersion) -> None:
        """Wait for the one fetch of this version; it is given up when the last who waits is cancelled."""
        flight = self._flights.get(version)
        if flight is None or flight.stop.is_set():
            stop = threading.Event()
            flight = _Flight(asyncio.create_task(self._fetch(version, stop)), stop)
            self._flights[version] = flight
            self._tasks.add(flight.task)
            flight.task.add_done_callback(lambda task: self._landed(version, task))
        flight.waiting += 1
        try:
            # Unlike awaiting the task, this does not cancel it for the others.
            await asyncio.wait([flight.task])
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                flight.stop.set()
        if flight.task.cancelled() or isinstance(flight.task.exception(), DownloadCancelledError):
            raise errors.UnavailableError(
                "DRAINING", "the worker is stopping; try again", retry_after=_RETRY_AFTER
            )
        flight.task.result()

    def _landed(self, version: AdapterVersion, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        flight = self._flights.get(version)
        if flight is not None and flight.task is task:
            del self._flights[version]
        if not task.cancelled():
            # All who waited may be gone; then nobody else looks at it.
            task.exception()

    async def _fetch(self, version: AdapterVersion, stop: threading.Event) -> None:
        digest = version.digest
        with self._in_use(digest):
            if digest in self._sizes:
                # From an earlier process: trusted no more than a download.
                whole = await asyncio.to_thread(_sums_match, self._folder / digest, version)
                if whole or digest in self._checked:
                    self._checked.add(digest)
                    return
                self._delete(digest)
            with self._room_for(version):
                uid = version.deployment_uid
                token = await self._hub_token(uid, version.digest) if uid else ""
                _log.info("adapter_download_started", digest=digest, repo=version.hub_repo)
                self._sizes[digest] = await in_daemon_thread(lambda: self._download(version, token, stop))
            self._checked.add(digest)
            self._refused.discard(digest)
            _log.info("adapter_downloaded", digest=digest, size_bytes=self._sizes[digest])

    def _download(self, version: AdapterVersion, token: str, stop: threading.Event) -> int:
        """Blocking. Whatever happens, nothing stays but the whole adapter in its place."""
        with tempfile.TemporaryDirectory(prefix=_FETCHING, dir=self._folder) as scratch:
            files = Path(scratch) / version.digest
            files.mkdir()
            size = 0
            for name, sha256 in ((CONFIG, version.config_sha256), (WEIGHTS, version.weights_sha256)):
                try:
                    path = self._hub.download(
                        version.hub_repo,
                        version.commit,
                        name,
                        files,
                        token=token,
                        max_bytes=version.size_bytes,
                        cancelled=stop.is_set,
                    )
                except errors.InvalidFieldError as error:
                    if error.reason == "HUB_FILE_TOO_LARGE":
                        raise _tampered(version, name) from None
                    raise
                if _sha256(path) != sha256:
                    raise _tampered(version, name)
                size += path.stat().st_size
            if stop.is_set():
                raise DownloadCancelledError(version.digest)
            _put_in_place(files, self._folder / version.digest)
        return size

    @contextmanager
    def _room_for(self, version: AdapterVersion) -> Iterator[None]:
        """Reserve bytes for a download, deleting the least recently used that nobody holds until it fits."""
        if version.size_bytes > self._quota:
            raise errors.AboveLimitError("bytes of adapter cache", version.size_bytes, self._quota)
        wanted = version.size_bytes + self._coming
        for digest in list(self._sizes):
            if self.size_bytes + wanted <= self._quota:
                break
            if digest not in self._uses:
                self._delete(digest)
        if self.size_bytes + wanted > self._quota:
            raise errors.UnavailableError(
                "ADAPTER_CACHE_FULL",
                f"all of the {self._quota} bytes for adapters are in use; try again",
                retry_after=_RETRY_AFTER,
                metadata={"digest": version.digest},
            )
        self._coming += version.size_bytes
        try:
            yield
        finally:
            self._coming -= version.size_bytes

    def _delete(self, digest: str) -> None:
        self._refused.discard(digest)
        self._checked.discard(digest)
        if self._sizes.pop(digest, None) is None:
            return
        # By rename first: a crash must not leave half an adapter under its name.
        doomed = Path(tempfile.mkdtemp(prefix=_DELETED, dir=self._folder))
        (self._folder / digest).rename(doomed / digest)
        shutil.rmtree(doomed)
        _log.info("adapter_deleted", digest=digest)


@dataclass
class _Flight:
    """One fetch that any number of requests wait for."""

    task: "asyncio.Task[None]"
    stop: threading.Event
    waiting: int = 0


def _lock(folder: Path) -> int:
    """A descriptor that keeps other processes out until it is closed, if only by the end of this one."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise FolderInUseError(f"{folder} is in use by another worker; give each its own") from None
    return descriptor


def _recover(folder: Path) -> OrderedDict[str, int]:
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
        elif entry.name.startswith((_FETCHING, _DELETED)):
            shutil.rmtree(entry)
    return OrderedDict((digest, size) for _, digest, size in sorted(found))


def _put_in_place(files: Path, target: Path) -> None:
    for path in (files / CONFIG, files / WEIGHTS, files):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    try:
        files.rename(target)
    except OSError:
        # The same content from another repo, or for another deployment, was there first.
        if not target.is_dir():
            raise


def _sums_match(folder: Path, version: AdapterVersion) -> bool:
    return (
        _sha256(folder / CONFIG) == version.config_sha256
        and _sha256(folder / WEIGHTS) == version.weights_sha256
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tampered(version: AdapterVersion, name: str) -> errors.PreconditionError:
    return errors.PreconditionError(
        "ADAPTER_TAMPERED",
        version.hub_repo,
        f"{name} of {version.hub_repo} at commit {version.commit} is not what was admitted: its SHA-256 differs."
        " Do not trust this Hub, or deploy the adapter again",
        {"repo": version.hub_repo, "revision": version.commit, "file": name},
    )
