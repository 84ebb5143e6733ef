"""What the registry reads from the Hub: which files a commit has, small files, the beginnings of large ones.

Runs the Hub's own client in threads, and asks again with growing pauses while the Hub gives no answer.
Errors are those of services.common.hub.
"""

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import huggingface_hub
from huggingface_hub.utils import (  # type: ignore[attr-defined] # lazy, but public
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from services.common import errors, hub, logs

_Result = TypeVar("_Result")
_log = logs.get_logger(__name__)

_CHUNK = 1024**2
_FIRST_PAUSE = 0.5


@dataclass(frozen=True)
class HubFile:
    """A file of a commit, by what the Hub says of it."""

    size: int
    sha256: str
    """Empty where the Hub keeps no SHA-256 of it: a file in git itself."""


@dataclass(frozen=True)
class HubCommit:
    """A repo at one commit."""

    repo: str
    commit: str
    files: Mapping[str, HubFile]


class HubReader:
    """Reads repos of one Hub. Every call takes the token to send; empty sends none."""

    def __init__(self, endpoint: str, *, patience: float) -> None:
        """`patience` bounds the pauses between the tries of one call, together, in seconds."""
        self._endpoint = endpoint
        self._client = hub.HubClient(endpoint)
        self._patience = patience

    async def resolve(self, repo: str, revision: str, *, token: str) -> HubCommit:
        """The commit that a branch, tag or commit stands for now; empty means the default branch."""
        info = await self._retried(lambda: self._client.model_info(repo, revision or "main", token=token))
        files = {
            one.rfilename: HubFile(one.size or 0, one.lfs.sha256 if one.lfs else "")
            for one in info.siblings or ()
        }
        return HubCommit(repo, str(info.sha), files)

    async def read(self, at: HubCommit, filename: str, *, token: str, length: int) -> bytes:
        """The first `length` bytes of a file, or as many as it has."""

        def read() -> bytes:
            found = bytearray()
            with self._chunks(at, filename, token, length=length) as chunks:
                for chunk in chunks:
                    found += chunk
                    # A server that knows no ranges would send the whole file.
                    if len(found) >= length:
                        break
            return bytes(found[:length])

        # An empty file has no range that could be asked for.
        return await self._retried(read) if at.files[filename].size else b""

    async def sha256(self, at: HubCommit, filename: str, *, token: str) -> str:
        """The digest of a whole file, in hex. Fetches it, and keeps nothing of it."""
        abandoned = threading.Event()
        size = at.files[filename].size

        def digest() -> str:
            hashed, received = hashlib.sha256(), 0
            with self._chunks(at, filename, token) as chunks:
                for chunk in chunks:
                    received += len(chunk)
                    hashed.update(chunk)
                    if abandoned.is_set() or received > size:
                        break
            if received != size:
                raise errors.InvalidFieldError(
                    filename, f"{received} bytes long", f"{size} bytes, as the Hub lists it",
                    reason="HUB_FILE_SIZE_WRONG",
                )  # fmt: skip
            return hashed.hexdigest()

        try:
            return await self._retried(digest)
        finally:
            abandoned.set()

    @contextmanager
    def _chunks(
        self, at: HubCommit, filename: str, token: str, *, length: int | None = None
    ) -> Iterator[Iterator[bytes]]:
        url = huggingface_hub.hf_hub_url(at.repo, filename, revision=at.commit, endpoint=self._endpoint)
        headers = build_hf_headers(token=token or False)
        headers["Accept-Encoding"] = "identity"
        if length is not None:
            headers["Range"] = f"bytes=0-{length - 1}"
        try:
            with get_session().stream("GET", url, headers=headers, timeout=hub.TIMEOUT) as response:
                if response.is_error:
                    response.read()
                hf_raise_for_status(response)
                yield response.iter_bytes(_CHUNK)
        except Exception as error:
            translated = hub.translate(
                error, repo=at.repo, revision=at.commit, has_token=bool(token), filename=filename
            )
            if translated is None:
                raise
            raise translated from None

    async def _retried(self, call: Callable[[], _Result]) -> _Result:
        waited, pause = 0.0, _FIRST_PAUSE
        while True:
            try:
                return await asyncio.to_thread(call)
            except errors.UnavailableError as error:
                if waited + pause > self._patience:
                    raise
                _log.warning("hub_unreachable", reason=error.reason, message=error.message, pause=pause)
            await asyncio.sleep(pause)
            waited, pause = waited + pause, 2 * pause
