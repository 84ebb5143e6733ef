"""`loramux models`."""

import typer

from loramux.cli import console, money, session


def models(context: typer.Context, as_json: session.Json = False) -> None:
    """List the base models, with prices."""
    with session.client(context) as client:
        found = client.list_base_models()
    if as_json:
        console.print_json(found)
        return
    console.table(
        ["NAME", "CONTEXT", "MAX RANK", "$/M PROMPT", "$/M COMPLETION", "LORA $/M", "ADAPTERS NAME IT"],
        (
            [
                base.name,
                f"{base.context_length:,}",
                str(base.max_lora_rank),
                money.per_million(base.price.prompt_pico_usd),
                money.per_million(base.price.completion_pico_usd),
                " / ".join(
                    money.per_million(price)
                    for price in (
                        base.lora_price.prompt_pico_usd,
                        base.lora_price.completion_pico_usd,
                    )
                ),
                ", ".join(base.adapter_base_names),
            ]
            for base in found
        ),
        right=["CONTEXT", "MAX RANK", "$/M PROMPT", "$/M COMPLETION"],
    )
