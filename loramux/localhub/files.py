"""One file of a commit as a response, with what tests want to go wrong on the way."""

from pathlib import Path

from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from loramux.localhub.faults import CutConnection, Fault, Tamper
from loramux.localhub.store import StoredFile


class FileOfCommit(FileResponse):
    """Answers HEAD, GET and Range (206, 416) with the headers that the client pins a file by."""

    def __init__(self, stored: StoredFile, commit: str, fault: Fault | None) -> None:
        headers = {"X-Repo-Commit": commit, "ETag": f'"{stored.etag}"'}
        if stored.lfs_pointer_size is not None:
            headers["X-Linked-ETag"] = f'"{stored.etag}"'
            headers["X-Linked-Size"] = str(stored.size)
        blob = _tampered(stored, fault.offset) if isinstance(fault, Tamper) else stored.blob
        super().__init__(blob, headers=headers, media_type=_media_type(stored))
        self._cut_after = fault.after_bytes if isinstance(fault, CutConnection) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._cut_after is None:
            await super().__call__(scope, receive, send)
            return
        left = self._cut_after

        async def send_until_cut(message: Message) -> None:
            nonlocal left
            if message["type"] != "http.response.body":
                await send(message)
                return
            body = message["body"][:left]
            left -= len(body)
            await send({**message, "body": body, "more_body": True})
            if left == 0:
                raise _CutError

        try:
            await super().__call__(scope, receive, send_until_cut)
        except _CutError:
            # The server closes the connection of an application that returns before its body is complete.
            return


class _CutError(Exception):
    pass


def _media_type(stored: StoredFile) -> str:
    return "application/octet-stream" if stored.lfs_pointer_size is not None else "text/plain"


def _tampered(stored: StoredFile, offset: int) -> Path:
    place = stored.blob.with_name(f"{stored.blob.name}.tampered.{offset}")
    if not place.exists():
        content = bytearray(stored.blob.read_bytes())
        content[offset] ^= 0xFF
        place.write_bytes(content)
    return place
