"""`loramux account`: what the operator does, and a look at one's own account."""

from typing import TYPE_CHECKING, Annotated

import typer

from loramux.cli import console, money, session

if TYPE_CHECKING:
    from loramux.account.v1.account_pb2 import Account

app = typer.Typer(no_args_is_help=True, help="Create accounts, grant credit, show an account.")

AccountId = Annotated[str, typer.Argument(metavar="ACCOUNT", help="2 .. 39 of a-z, 0-9 and '-'.")]


@app.command()
def create(
    context: typer.Context,
    account_id: AccountId,
    *,
    credit: Annotated[str, typer.Option(metavar="USD", help="First credit.")] = "0",
    max_in_flight: Annotated[int | None, typer.Option(help="Requests in flight on one base model.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="0 sets no bound.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="0 sets no bound.")] = None,
) -> None:
    """Operator: make an account and its first key. stdout gets the key and nothing else."""
    with session.operator(context) as operator:
        operator.create_account(
            account_id,
            credit_pico_usd=money.parse_usd(credit),
            max_in_flight=max_in_flight,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )
        made = operator.create_key("first key", account=account_id)
    console.note(f"account {account_id} is made; its first key is not shown again:", "dim")
    typer.echo(made.secret)


@app.command()
def credit(
    context: typer.Context,
    account_id: AccountId,
    amount: Annotated[str, typer.Argument(metavar="USD", help="Such as 2.50.")],
) -> None:
    """Operator: add to an account's credit."""
    with session.operator(context) as operator:
        _show(operator.grant_credit(account_id, money.parse_usd(amount)))


@app.command()
def show(
    context: typer.Context,
    account_id: Annotated[str | None, typer.Argument(metavar="[ACCOUNT]")] = None,
    as_json: session.Json = False,
) -> None:
    """Show one's own account; any other with the operator's key."""
    with session.client(context) if account_id is None else session.operator(context) as client:
        found = client.get_account(account_id or "")
    if as_json:
        console.print_json(found)
    else:
        _show(found)


def _show(account: "Account") -> None:
    limits = account.effective_limits
    own = account.limits
    console.fields(
        [
            ("account", account.name),
            ("available", money.usd(account.balance.available_pico_usd)),
            ("reserved", money.usd(account.balance.reserved_pico_usd)),
            (
                "requests in flight",
                _limit(limits.max_in_flight, is_own=own.HasField("max_in_flight")),
            ),
            (
                "requests per minute",
                _limit(limits.requests_per_minute, is_own=own.HasField("requests_per_minute")),
            ),
            (
                "tokens per minute",
                _limit(limits.tokens_per_minute, is_own=own.HasField("tokens_per_minute")),
            ),
            ("created", account.create_time.ToJsonString()),
        ]
    )


def _limit(value: int, *, is_own: bool) -> str:
    return str(value) if is_own else f"{value} (default)"
