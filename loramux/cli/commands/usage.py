"""`loramux usage` and `loramux bill`."""

# ruff: noqa: PLC0415  # protos take longer to import than `loramux --help` should
import itertools
from typing import Annotated

import typer

from loramux.cli import console, money, session

# BillLine.Kind
_KINDS = {1: "base", 2: "LoRA", 3: "merged"}


def usage(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Only this model's.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many.")] = 20,
    account: session.Account = "",
    as_json: session.Json = False,
) -> None:
    """List what requests used, newest first."""
    from loramux.account.v1 import usage_pb2

    with session.client(context) as client:
        records = client.list_usage(model=model, account=account, page_size=min(limit, 1000))
        found = list(itertools.islice(records, limit))
    if as_json:
        console.print_json(found)
        return
    console.table(
        ["ENDED", "MODEL", "PROMPT", "CACHED", "COMPLETION", "COST", "OUTCOME", "REQUEST"],
        (
            [
                one.end_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S"),
                one.model,
                str(one.prompt_tokens),
                str(one.cached_tokens),
                str(one.completion_tokens),
                money.usd(one.total_pico_usd),
                usage_pb2.UsageRecord.Outcome.Name(one.outcome).removeprefix("OUTCOME_").lower(),
                one.request_id,
            ]
            for one in found
        ),
        right=["PROMPT", "CACHED", "COMPLETION", "COST"],
    )


def bill(context: typer.Context, account: session.Account = "", as_json: session.Json = False) -> None:
    """Show the bill: usage summed by model and price. LoRA tokens cost 3/2 of the base's."""
    with session.client(context) as client:
        found = client.get_bill(account=account)
    if as_json:
        console.print_json(found)
        return
    rows = [
        [
            line.model,
            _KINDS.get(line.kind, ""),
            str(line.requests),
            f"{line.prompt_tokens:,}",
            money.per_million(line.price.prompt_pico_usd),
            f"{line.completion_tokens:,}",
            money.per_million(line.price.completion_pico_usd),
            money.usd(line.total_pico_usd),
        ]
        for line in found.lines
    ]
    headings = ["MODEL", "KIND", "REQUESTS", "PROMPT", "$/M", "COMPLETION", "$/M", "COST"]
    rows.append(["total", "", "", "", "", "", "", money.usd(found.total_pico_usd)])
    console.table(headings, rows, right=headings[2:])
