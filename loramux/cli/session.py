"""What commands share: the connection that the global options name, and how an error ends a command."""

# ruff: noqa: PLC0415  # grpc takes longer to import than `loramux --help` should
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from loramux.cli import console

if TYPE_CHECKING:
    from loramux import errors
    from loramux.sync_client import SyncClient

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Account = Annotated[
    str, typer.Option("--account", help="Another account's; needs the operator's key as API key.")
]

_FAILED = 1
_USAGE = 2


@dataclass(frozen=True)
class Connect:
    """The global options; None where not given."""

    target: str | None = None
    api_key: str | None = None


def client(context: typer.Context) -> "SyncClient":
    """A client of the caller's own account."""
    import loramux

    given = context.find_object(Connect) or Connect()
    return loramux.SyncClient(given.target, given.api_key)


def operator(context: typer.Context) -> "SyncClient":
    """A client with the operator's key: LORAMUX_OPERATOR_KEY's, or that of the services running here."""
    import loramux
    from loramux import profile
    from loramux.connection import MissingSettingError

    given = context.find_object(Connect) or Connect()
    running = profile.load()
    target = given.target or os.environ.get("LORAMUX_TARGET") or (running.target if running else None)
    key = os.environ.get("LORAMUX_OPERATOR_KEY")
    if not key and running is not None and target == running.target:
        key = running.operator_key
    if not key:
        raise MissingSettingError("no operator's key: set LORAMUX_OPERATOR_KEY, or start `loramux up`")
    return loramux.SyncClient(target, key)


class RootGroup(TyperGroup):
    """The whole command line: however a command fails, one line on stderr and an exit status."""

    def invoke(self, ctx: Any) -> Any:  # typer's own Context, and whatever a command returns
        try:
            return super().invoke(ctx)
        except Exception as problem:
            status = _report(problem)
            if status is None:
                raise
            raise typer.Exit(status) from None


def _report(problem: Exception) -> int | None:
    """Print the error and return the exit status; None for what typer itself reports."""
    if isinstance(problem, (typer.TyperException, typer.Exit, typer.Abort, BrokenPipeError)):
        return None
    from loramux import errors
    from loramux.cli.embedded.supervision import EmbeddedError
    from loramux.connection import MissingSettingError

    match problem:
        case errors.LoramuxError():
            console.error(sentence(problem))
        case EmbeddedError():
            first, _, log = str(problem).partition("\n")
            console.error(first)
            if log:
                console.note(log, "dim")
        case MissingSettingError():
            console.error(str(problem))
        case ValueError():
            console.error(str(problem))
            return _USAGE
        case OSError():
            console.error(str(problem))
        case _:
            if os.environ.get("LORAMUX_DEBUG"):
                return None
            console.error(
                f"{type(problem).__name__}: {problem} (a defect of loramux; LORAMUX_DEBUG=1 shows where)"
            )
    return _FAILED


def sentence(problem: "errors.LoramuxError") -> str:
    """What a call ended with, for people: message, stable reason, and when to come back."""
    text = problem.message or problem.code.name
    if problem.reason:
        text = f"{text} ({problem.reason})"
    elif problem.code.name == "UNAVAILABLE":
        text = f"no connection to the gateway: {text}"
    if problem.retry_after:
        text = f"{text}; a retry may succeed after {problem.retry_after:g} s"
    return text
