"""`loramux`: the command line's root, and where each command is."""

from importlib import metadata
from typing import Annotated

import typer

from loramux.cli.commands import account, chat, deployments, generate, hub, keys, models, up, usage
from loramux.cli.session import Connect, RootGroup

app = typer.Typer(
    cls=RootGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
SERVE = "Serve on this machine"
USE = "Use"
MANAGE = "Manage"

app.command("up", rich_help_panel=SERVE)(up.up)
app.command("hub", rich_help_panel=SERVE)(hub.hub)
app.command("models", rich_help_panel=USE)(models.models)
app.command("deploy", rich_help_panel=USE)(deployments.deploy)
app.command("chat", rich_help_panel=USE)(chat.chat)
app.command("generate", rich_help_panel=USE)(generate.generate)
app.add_typer(deployments.app, name="deployments", rich_help_panel=MANAGE)
app.command("usage", rich_help_panel=MANAGE)(usage.usage)
app.command("bill", rich_help_panel=MANAGE)(usage.bill)
app.add_typer(keys.app, name="keys", rich_help_panel=MANAGE)
app.add_typer(account.app, name="account", rich_help_panel=MANAGE)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"loramux {metadata.version('loramux')}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="The gateway; https://... for TLS. Else LORAMUX_TARGET, else the `loramux up` of this machine.",
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Else LORAMUX_API_KEY, which no process list shows."),
    ] = None,
    _asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Serve hundreds of LoRA adapters from one copy of a base model.

    Start with `loramux up`; then, in another terminal, `loramux models`, `loramux deploy`, `loramux chat`.
    """
    context.obj = Connect(target=target, api_key=api_key)


def main() -> None:
    """The entry point of the `loramux` program."""
    app(prog_name="loramux")


if __name__ == "__main__":
    main()
