"""The options of `chat` and `generate` that choose tokens."""

from typing import Annotated

import typer

MaxTokens = Annotated[int | None, typer.Option("--max-tokens", "-n", help="Upper bound on generated tokens.")]
Temperature = Annotated[float | None, typer.Option("--temperature", "-t", help="0 is greedy.")]
TopK = Annotated[int | None, typer.Option(help="Keep the k likeliest tokens.")]
TopP = Annotated[float | None, typer.Option(help="Keep the smallest set whose probabilities reach p.")]
MinP = Annotated[float | None, typer.Option(help="Keep tokens this likely relative to the likeliest.")]
RepetitionPenalty = Annotated[float | None, typer.Option(help="1 is none.")]
Seed = Annotated[int | None, typer.Option(help="Makes sampling repeatable.")]
Stop = Annotated[list[str] | None, typer.Option(help="End before this string; may be given several times.")]
System = Annotated[str | None, typer.Option(help="A system message before everything else.")]
