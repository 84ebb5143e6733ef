"""`loramux deploy` and `loramux deployments`."""

# ruff: noqa: PLC0415  # protos take longer to import than `loramux --help` should
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from loramux.cli import console, session

if TYPE_CHECKING:
    from loramux.deployment.v1.deployment_pb2 import Deployment
    from loramux.sync_client import SyncClient

app = typer.Typer(help="List, show, update and delete deployments; lists where nothing is said.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="account/name, or the name alone for one's own.")]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="LORAMUX_HUB_TOKEN",
        show_envvar=True,
        help="A Hub token, for private and gated repositories. Process lists show options: prefer the variable.",
    ),
]
TokenStdin = Annotated[bool, typer.Option("--token-stdin", help="Read the Hub token from stdin.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it runs or fails.")]


def deploy(
    context: typer.Context,
    *,
    name: Annotated[str, typer.Argument(help="The deployment's name within the account.")],
    hub_repo: Annotated[str, typer.Argument(help="The adapter's repository on the Hub, owner/name.")],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit; else the default branch.")] = "",
    base: Annotated[str, typer.Option(help="The base model; may be left out where there is one only.")] = "",
    accept_base_name: Annotated[
        bool,
        typer.Option(
            "--accept-base-name", help="It is for this base, although its config names another, or a folder."
        ),
    ] = False,
    use_base_template: Annotated[
        bool,
        typer.Option(
            "--use-base-template",
            help="Serve with the base's chat template and end tokens, whatever the repository has.",
        ),
    ] = False,
    token: Token = None,
    token_stdin: TokenStdin = False,
    wait: Wait = True,
) -> None:
    """Take a name for an adapter on the Hub, and wait until it runs."""
    hub_token = _token(token, from_stdin=token_stdin)
    with session.client(context) as client:
        made = client.create_deployment(
            name,
            hub_repo,
            revision=revision,
            hub_token=hub_token or "",
            base_model=base,
            accept_base_name=accept_base_name,
            use_base_template=use_base_template,
        )
        if wait:
            made = _follow(client, made.name)
    typer.echo(made.name)


@app.callback(invoke_without_command=True)
def _list_by_default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_(context)


@app.command("list")
def list_(context: typer.Context, as_json: session.Json = False) -> None:
    """List the account's deployments."""
    with session.client(context) as client:
        found = list(client.list_deployments())
    if as_json:
        console.print_json(found)
        return
    console.table(
        ["NAME", "STATE", "BASE", "HUB REPO", "COMMIT", "RANK", "ABOUT"],
        (
            [
                one.name,
                _state(one),
                one.base_model,
                one.serving.hub_repo,
                one.serving.commit[:8],
                str(one.serving.rank or ""),
                one.failure.message or one.status_message,
            ]
            for one in found
        ),
        right=["RANK"],
    )


@app.command()
def show(context: typer.Context, name: Name, as_json: session.Json = False) -> None:
    """Show everything about one deployment."""
    with session.client(context) as client:
        found = client.get_deployment(_full_name(client, name))
    if as_json:
        console.print_json(found)
        return
    console.fields(
        [
            ("name", found.name),
            ("state", _state(found)),
            ("status", found.status_message),
            ("failure", f"{found.failure.message} ({found.failure.reason})" if found.failure.reason else ""),
            ("base model", found.base_model),
            ("hub repo", found.serving.hub_repo),
            ("revision", found.serving.revision),
            ("commit", found.serving.commit),
            ("digest", found.serving.digest),
            ("size", f"{found.serving.size_bytes:,} bytes" if found.serving.size_bytes else ""),
            ("rank", str(found.serving.rank or "")),
            ("adapts", ", ".join(found.serving.target_modules)),
            ("chat template", _template(found)),
            ("ends a turn", ", ".join(map(str, found.serving.extras.end_token_ids))),
            ("being replaced by", f"{found.candidate.hub_repo} {found.candidate.commit}".strip()),
            ("hub token", "stored" if found.has_hub_token else ""),
            ("created", found.create_time.ToJsonString()),
            ("updated", found.update_time.ToJsonString()),
        ]
    )


@app.command()
def update(
    context: typer.Context,
    *,
    name: Name,
    hub_repo: Annotated[
        str | None, typer.Option("--hub-repo", help="Another repository; else the same.")
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit, or '' for the default branch; else as it was."),
    ] = None,
    token: Token = None,
    token_stdin: TokenStdin = False,
    remove_token: Annotated[
        bool, typer.Option("--remove-token", help="Forget the stored Hub token.")
    ] = False,
    accept_base_name: Annotated[
        bool | None,
        typer.Option(
            "--accept-base-name/--check-base-name",
            help="Whether it is for its base although its config names another, or a folder; else as it was.",
        ),
    ] = None,
    use_base_template: Annotated[
        bool | None,
        typer.Option(
            "--use-base-template/--use-repo-template",
            help="Whose chat template and end tokens: the base's or the repository's; else as it was.",
        ),
    ] = None,
    wait: Wait = True,
) -> None:
    """Bring a new adapter version under the name; the old one serves until the new one is loaded."""
    from loramux import DeploymentFailedError

    hub_token = "" if remove_token else _token(token, from_stdin=token_stdin)
    with session.client(context) as client:
        changed = client.update_deployment(
            _full_name(client, name),
            hub_repo=hub_repo,
            revision=revision,
            hub_token=hub_token,
            accept_base_name=accept_base_name,
            use_base_template=use_base_template,
        )
        if wait:
            changed = _follow(client, changed.name)
            if changed.failure.reason:
                # It runs, but on the version it had before.
                raise DeploymentFailedError(changed)
    typer.echo(changed.name)


@app.command()
def delete(context: typer.Context, name: Name) -> None:
    """Give a name back."""
    with session.client(context) as client:
        gone = client.delete_deployment(_full_name(client, name))
    typer.echo(gone.name)


def _follow(client: "SyncClient", name: str) -> "Deployment":
    """Wait until it runs, showing on stderr what happens: in place on a terminal, else a line for each change."""
    console_ = console.err()
    if not console_.is_terminal:
        return client.wait_until_running(name, on_change=lambda one: console.note(_progress(one)))
    with console_.status(f"{name}: asking") as status:
        return client.wait_until_running(name, on_change=lambda one: status.update(_progress(one)))


def _progress(deployment: "Deployment") -> str:
    about = f": {deployment.status_message}" if deployment.status_message else ""
    return f"{deployment.name} {_state(deployment)}{about}"


def _state(deployment: "Deployment") -> str:
    from loramux.deployment.v1 import deployment_pb2

    name = deployment_pb2.Deployment.State.Name(deployment.state).removeprefix("STATE_")
    return name if name == "RUNNING" and not deployment.HasField("candidate") else name.lower()


def _template(found: "Deployment") -> str:
    if found.use_base_template:
        return "the base's, as asked for"
    if not found.serving.commit:
        return ""
    return "the repository's" if found.serving.extras.has_chat_template else "the base's"


def _full_name(client: "SyncClient", name: str) -> str:
    return name if "/" in name else f"{client.get_account().name}/{name}"


def _token(given: str | None, *, from_stdin: bool) -> str | None:
    """None where none is given. Raises ValueError where stdin has none."""
    if not from_stdin:
        return given
    token = sys.stdin.readline().strip()
    if not token:
        raise ValueError("--token-stdin is given, and stdin holds no token")
    return token
