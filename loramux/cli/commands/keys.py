"""`loramux keys`."""

from typing import Annotated

import typer

from loramux.cli import console, session

app = typer.Typer(help="List, create and revoke API keys; lists where nothing is said.")


@app.callback(invoke_without_command=True)
def _list_by_default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_(context)


@app.command("list")
def list_(context: typer.Context, account: session.Account = "", as_json: session.Json = False) -> None:
    """List the account's keys; their secrets are never shown again."""
    with session.client(context) as client:
        found = list(client.list_keys(account=account))
    if as_json:
        console.print_json(found)
        return
    console.table(
        ["NAME", "BEGINS", "DESCRIPTION", "CREATED", "REVOKED"],
        (
            [
                key.name,
                f"{key.prefix}...",
                key.description,
                key.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S"),
                key.revoke_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
                if key.HasField("revoke_time")
                else "",
            ]
            for key in found
        ),
    )


@app.command()
def create(
    context: typer.Context,
    description: Annotated[str, typer.Argument(help="What it is for.")] = "",
    account: session.Account = "",
) -> None:
    """Make a key. stdout gets the key and nothing else; it is shown this once."""
    with session.client(context) as client:
        made = client.create_key(description, account=account)
    console.note(f"key {made.key.name} of {made.key.account}; it is not shown again:", "dim")
    typer.echo(made.secret)


@app.command()
def revoke(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="As `keys list` shows it.")],
) -> None:
    """End a key for good."""
    with session.client(context) as client:
        client.revoke_key(name)
    console.note(f"key {name} is revoked")
