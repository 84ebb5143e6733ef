"""`loramux hub`."""

# ruff: noqa: PLC0415  # starlette and uvicorn are of the `hub` extra
import signal
from pathlib import Path
from typing import Annotated

import typer

from loramux.cli import console


def hub(
    root: Annotated[
        Path, typer.Argument(help="Repositories as ROOT/owner/name/, tokens in ROOT/tokens.toml.")
    ] = Path(),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
) -> None:
    """Serve a folder as a Hugging Face Hub, for machines that reach none.

    ROOT/owner/name.hub.toml may hold `private = true`, `gated = true` and `allowed_users = [...]`.
    Nothing of the folder is written to, and editing a file makes a new commit.
    """
    try:
        from loramux import localhub
    except ImportError as problem:
        raise ValueError(f"{problem.name} is not installed here: pip install 'loramux[hub]'") from None
    if not root.is_dir():
        raise ValueError(f"{root} is no folder")
    served = localhub.LocalHub(root.absolute())
    try:
        served.store.users()
        infos = [served.store.info(repo_id) for repo_id in served.store.repo_ids()]
        for info in infos:
            if info is not None:
                marks = [mark for mark in ("private", "gated") if getattr(info, mark)]
                console.note("  ".join(["", info.repo_id, *marks]))
        # uvicorn raises the signal that stopped it once more; by then, ours is only the end of this command.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        localhub.serve(served, host=host, port=port, ready=_ready)
    except KeyboardInterrupt:
        pass
    except localhub.HubRootError as problem:
        raise ValueError(str(problem)) from None
    finally:
        served.close()


def _ready(endpoint: str) -> None:
    # The one line on stdout, so that a program can read it.
    typer.echo(endpoint)
    console.note("use it with: loramux up --hub-endpoint, or HF_ENDPOINT; Ctrl-C stops it", "dim")
