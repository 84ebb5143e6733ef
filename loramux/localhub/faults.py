"""What can be made to go wrong with a request, so that tests meet what the field meets."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["info", "tree", "paths-info", "resolve", "auth-check", "whoami"]


@dataclass(frozen=True)
class HubRequest:
    """A request as the hub understood it. The caller's token is never kept, only whose it is."""

    kind: Kind
    method: str
    repo_id: str = ""
    revision: str = ""
    """As asked for: a branch, a tag or a commit; empty means the default branch."""
    path: str = ""
    """The file of a resolve, the folder of a tree."""
    user: str | None = None
    """Whose token came with it; None for an anonymous request."""
    range: str = ""
    """The Range header, as sent."""


@dataclass(frozen=True)
class Refuse:
    """Answer with this status and nothing else."""

    status: int = 503
    retry_after: int | None = None
    """Seconds, sent as Retry-After."""


@dataclass(frozen=True)
class CutConnection:
    """Promise the whole file, send this many bytes of it, and close the connection."""

    after_bytes: int = 0


@dataclass(frozen=True)
class Tamper:
    """Serve a file of the right size and headers in which the byte at `offset` is flipped.

    A negative offset counts from the end, where a safetensors file has weights and no header.
    """

    offset: int = -1


@dataclass(frozen=True)
class Hold:
    """Answer nothing until `release` is set; then answer as usual."""

    release: threading.Event


Fault = Refuse | CutConnection | Tamper | Hold
FaultHook = Callable[[HubRequest], Fault | None]
