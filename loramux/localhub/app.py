"""The Hub's HTTP interface, as `huggingface_hub` 2.4 uses it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from loramux.localhub import entries
from loramux.localhub.faults import Fault, Hold, HubRequest, Kind, Refuse
from loramux.localhub.files import FileOfCommit
from loramux.localhub.hub import LocalHub
from loramux.localhub.store import HubRootError, RepoInfo, Snapshot

_HOLD_POLL_SECONDS = 0.01


def make_app(hub: LocalHub) -> ASGIApp:
    """The ASGI application that serves `hub`."""
    endpoints = _Endpoints(hub)
    api = "/api/models/{owner}/{name}"
    application = Starlette(
        routes=[
            Route("/api/whoami-v2", endpoints.whoami),
            Route(f"{api}/auth-check", endpoints.auth_check),
            Route(f"{api}/revision/{{revision}}", endpoints.info),
            Route(f"{api}/tree/{{revision}}", endpoints.tree),
            Route(f"{api}/tree/{{revision}}/{{path:path}}", endpoints.tree),
            Route(f"{api}/paths-info/{{revision}}", endpoints.paths_info, methods=["POST"]),
            Route(api, endpoints.info),
            # A GET route answers HEAD as well.
            Route("/{owner}/{name}/resolve/{revision}/{path:path}", endpoints.resolve),
        ],
        exception_handlers={HTTPException: _refuse, HubRootError: _broken_root},
    )
    return _with_quoted_path(application)


class _RefusalError(HTTPException):
    """An answer that the client turns into one of its exceptions, by the code."""

    def __init__(self, status: int, code: str, message: str, commit: str = "") -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit}
        super().__init__(status, message, {name: value for name, value in headers.items() if value})


@dataclass(frozen=True)
class _Asked:
    """A request that found its repository and revision."""

    request: HubRequest
    fault: Fault | None
    info: RepoInfo
    snapshot: Snapshot

    def pass_gate(self) -> None:
        """Of a gated repository anybody may see the listing; files are for those allowed."""
        if not self.info.gated or self.info.allows(self.request.user):
            return
        where = f"Access to model {self.info.repo_id} is restricted"
        if self.request.user is None:
            raise _RefusalError(401, "GatedRepo", f"{where}. You must be authenticated to access it.")
        raise _RefusalError(403, "GatedRepo", f"{where} and you are not in the authorized list.")

    def no_entry(self) -> _RefusalError:
        commit = self.snapshot.commit
        return _RefusalError(404, "EntryNotFound", f"{self.request.path} does not exist", commit)


class _Endpoints:
    def __init__(self, hub: LocalHub) -> None:
        self._hub = hub

    async def whoami(self, request: Request) -> Response:
        asked, _ = await self._note(request, "whoami")
        if asked.user is None:
            raise _RefusalError(401, "", "Invalid username or password.")
        return JSONResponse(entries.user(asked.user))

    async def auth_check(self, request: Request) -> Response:
        asked = await self._find(request, "auth-check")
        asked.pass_gate()
        return JSONResponse({})

    async def info(self, request: Request) -> Response:
        asked = await self._find(request, "info")
        return JSONResponse(entries.model(asked.info, asked.snapshot, blobs=_flag(request, "blobs")))

    async def tree(self, request: Request) -> Response:
        asked = await self._find(request, "tree")
        folders = list(asked.snapshot.folders())
        folder = asked.request.path.strip("/")
        if folder and folder not in folders:
            raise asked.no_entry()
        prefix = f"{folder}/" if folder else ""
        recursive = _flag(request, "recursive")
        found = [entries.folder(one, asked.snapshot.commit) for one in folders]
        found += [entries.file(one) for one in asked.snapshot.files.values()]
        return JSONResponse(
            [
                entry
                for entry in found
                if entry["path"].startswith(prefix)
                and (recursive or "/" not in entry["path"].removeprefix(prefix))
            ]
        )

    async def paths_info(self, request: Request) -> Response:
        asked = await self._find(request, "paths-info")
        form = parse_qs((await request.body()).decode())
        folders = set(asked.snapshot.folders())
        found = []
        for path in form.get("paths", []):
            stored = asked.snapshot.files.get(path)
            if stored is not None:
                found.append(entries.file(stored))
            elif path in folders:
                found.append(entries.folder(path, asked.snapshot.commit))
        return JSONResponse(found)

    async def resolve(self, request: Request) -> Response:
        asked = await self._find(request, "resolve")
        asked.pass_gate()
        stored = asked.snapshot.files.get(asked.request.path)
        if stored is None:
            raise asked.no_entry()
        return FileOfCommit(stored, asked.snapshot.commit, asked.fault)

    async def _find(self, request: Request, kind: Kind) -> _Asked:
        """Authenticate, then find repository and revision, refusing in the Hub's order."""
        asked, fault = await self._note(request, kind)
        info = await run_in_threadpool(self._hub.store.info, asked.repo_id)
        if info is None or (info.private and not info.allows(asked.user)):
            # The same for both, so that nobody learns which private repositories exist.
            raise _RefusalError(401 if asked.user is None else 404, "RepoNotFound", "Repository not found")
        snapshot = await run_in_threadpool(self._hub.store.snapshot, asked.repo_id, asked.revision)
        if snapshot is None:
            raise _RefusalError(404, "RevisionNotFound", f"Invalid rev id: {asked.revision}")
        return _Asked(asked, fault, info, snapshot)

    async def _note(self, request: Request, kind: Kind) -> tuple[HubRequest, Fault | None]:
        """Write the request down, apply the faults that concern any request, and check the token."""
        params = {name: unquote(value) for name, value in request.path_params.items()}
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        users: Mapping[str, str] = await run_in_threadpool(self._hub.store.users) if token else {}
        asked = HubRequest(
            kind=kind,
            method=request.method,
            repo_id=f"{params['owner']}/{params['name']}" if "owner" in params else "",
            revision=params.get("revision", ""),
            path=params.get("path", ""),
            user=users.get(token),
            range=request.headers.get("range", ""),
        )
        self._hub.requests.append(asked)
        fault = None if self._hub.fault is None else self._hub.fault(asked)
        if isinstance(fault, Hold):
            while not fault.release.is_set():  # noqa: ASYNC110  # set from another thread, and no thread may hang here
                await asyncio.sleep(_HOLD_POLL_SECONDS)
        elif isinstance(fault, Refuse):
            headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            raise HTTPException(fault.status, "Refused on purpose", headers)
        if token and asked.user is None:
            raise _RefusalError(401, "", "Invalid credentials in Authorization header")
        return asked, fault


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() == "true"


def _with_quoted_path(application: ASGIApp) -> ASGIApp:
    """Route by the path as it was sent: the slash in a branch's name comes quoted and separates nothing."""

    async def routed(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["raw_path"].decode("ascii")}
        await application(scope, receive, send)

    return routed


async def _refuse(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _broken_root(_request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 500, {"X-Error-Message": str(error)})
