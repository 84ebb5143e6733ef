"""Adapters on disk: fetched from the Hub on demand, checked by their sums, within a quota, never half there."""

import asyncio
import errno
import os
import shutil
import tempfile
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from services.common import errors, logs
from services.common.adapters.version import CONFIG, WEIGHTS, AdapterVersion
from services.common.hub import DownloadCancelledError, HubClient
from services.worker.adapters import store_folder
from services.worker.adapters.flight import Flight, Stop
from services.worker.daemon_threads import in_daemon_thread
from services.worker.engine.interface import AdapterFiles

_RETRY_AFTER = 2.0
_CLOSE_SECONDS = 2.0

_log = logs.get_logger(__name__)


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
        self._lock = store_folder.lock(folder)
        self._folder = folder
        self._hub = hub
        self._hub_token = hub_token
        self._quota = quota_bytes
        self._uses: Counter[str] = Counter()
        self._refused: set[str] = set()
        self._checked: set[str] = set()
        self._flights: dict[AdapterVersion, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._deletions: set[asyncio.Task[None]] = set()
        self._threads: set[asyncio.Future[int]] = set()
        """Of downloads, those that were given up among them."""
        self._coming = 0
        """Bytes that downloads under way may need."""
        self._sizes: OrderedDict[str, int] = store_folder.recover(folder)
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
        under_way: set[asyncio.Future[Any]] = {*self._tasks, *self._threads}  # Any: None or a size
        if under_way:
            _, stuck = await asyncio.wait(under_way, timeout=_CLOSE_SECONDS)
            for task in stuck:
                task.cancel()
        await asyncio.gather(*self._deletions)
        for leftover in self._folder.glob(f"{store_folder.FETCHING}*"):
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
            stop = Stop()
            flight = Flight(asyncio.create_task(self._fetch(version, stop)), stop)
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
                # It lets go of the room that it had taken, however long its thread hangs in a read.
                flight.task.cancel()
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

    async def _fetch(self, version: AdapterVersion, stop: Stop) -> None:
        digest = version.digest
        with self._in_use(digest):
            if digest in self._sizes:
                # From an earlier process: trusted no more than a download.
                whole = await asyncio.to_thread(store_folder.sums_match, self._folder / digest, version)
                if whole or digest in self._checked:
                    self._checked.add(digest)
                    return
                self._delete(digest)
            uid = version.deployment_uid
            token = await self._hub_token(uid, version.digest) if uid else ""
            # Nothing is deleted for what cannot be had.
            await in_daemon_thread(lambda: self._ask_for(version, token))
            with self._room_for(version):
                _log.info("adapter_download_started", digest=digest, repo=version.hub_repo)
                try:
                    self._sizes[digest] = await self._download_where_there_is_room(version, token, stop)
                except asyncio.CancelledError:
                    # Nothing comes after `stop`; what came before it is whole.
                    if digest not in self._sizes and (self._folder / digest).is_dir():
                        self._sizes[digest] = version.size_bytes
                    raise
            self._checked.add(digest)
            self._refused.discard(digest)
            _log.info("adapter_downloaded", digest=digest, size_bytes=self._sizes[digest])

    def _ask_for(self, version: AdapterVersion, token: str) -> None:
        """Blocking. Raises what a download would, where the Hub does not have the weights as they were admitted."""
        try:
            self._hub.check(
                version.hub_repo, version.commit, WEIGHTS, token=token, max_bytes=version.size_bytes
            )
        except errors.InvalidFieldError as error:
            if error.reason == "HUB_FILE_TOO_LARGE":
                raise _tampered(version, WEIGHTS) from None
            raise

    async def _download_where_there_is_room(self, version: AdapterVersion, token: str, stop: Stop) -> int:
        """Its bytes. Where the disk itself is full, whatever the quota, adapters that nobody holds give way."""
        while True:
            try:
                thread = asyncio.ensure_future(in_daemon_thread(lambda: self._download(version, token, stop)))
                self._threads.add(thread)
                thread.add_done_callback(self._thread_ended)
                return await asyncio.shield(thread)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                _log.warning("disk_full", digest=version.digest)
            unused = next((digest for digest in self._sizes if digest not in self._uses), None)
            if unused is None:
                raise _cache_full(version, "the disk for adapters is full")
            self._delete(unused)
            await asyncio.gather(*self._deletions)

    def _thread_ended(self, thread: "asyncio.Future[int]") -> None:
        self._threads.discard(thread)
        if not thread.cancelled():
            thread.exception()  # where it was given up nobody else looks at it

    def _download(self, version: AdapterVersion, token: str, stop: Stop) -> int:
        """Blocking. Whatever happens, nothing stays but the whole adapter in its place."""
        with tempfile.TemporaryDirectory(prefix=store_folder.FETCHING, dir=self._folder) as scratch:
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
                if store_folder.sha256(path) != sha256:
                    raise _tampered(version, name)
                size += path.stat().st_size
            store_folder.sync(files)
            with stop.held() as stopped:
                if stopped:
                    raise DownloadCancelledError(version.digest)
                store_folder.put_in_place(files, self._folder / version.digest)
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
            raise _cache_full(version, f"all of the {self._quota} bytes for adapters are in use")
        self._coming += version.size_bytes
        try:
            yield
        finally:
            self._coming -= version.size_bytes

    def _delete(self, digest: str) -> None:
        self._refused.discard(digest)
        self._checked.discard(digest)
        if digest not in self._sizes:
            return
        # By rename first: a crash must not leave half an adapter under its name.
        doomed = Path(tempfile.mkdtemp(prefix=store_folder.DELETED, dir=self._folder))
        (self._folder / digest).rename(doomed / digest)
        del self._sizes[digest]
        # Freeing gigabytes takes a while, and this loop streams everybody's tokens.
        deletion = asyncio.create_task(in_daemon_thread(lambda: shutil.rmtree(doomed, ignore_errors=True)))
        self._deletions.add(deletion)
        deletion.add_done_callback(self._deletions.discard)
        _log.info("adapter_deleted", digest=digest)


def _cache_full(version: AdapterVersion, why: str) -> errors.UnavailableError:
    return errors.UnavailableError(
        "ADAPTER_CACHE_FULL",
        f"{why}; try again",
        retry_after=_RETRY_AFTER,
        metadata={"digest": version.digest},
    )


def _tampered(version: AdapterVersion, name: str) -> errors.PreconditionError:
    return errors.PreconditionError(
        "ADAPTER_TAMPERED",
        version.hub_repo,
        f"{name} of {version.hub_repo} at commit {version.commit} is not what was admitted: its SHA-256 differs."
        " Do not trust this Hub, or deploy the adapter again",
        {"repo": version.hub_repo, "revision": version.commit, "file": name},
    )
