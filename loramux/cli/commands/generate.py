"""`loramux generate`."""

import sys
from typing import Annotated

import typer

from loramux.cli import console, session
from loramux.cli.commands import answer, sampling_options


def generate(
    context: typer.Context,
    *,
    model: Annotated[str, typer.Argument(help="A base model, or a deployment as account/name.")],
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; `-`, or nothing, reads it from stdin.")
    ] = None,
    as_chat: Annotated[
        bool,
        typer.Option("--chat", help="Send the prompt as a user's message, in the model's chat template."),
    ] = False,
    system: sampling_options.System = None,
    max_tokens: sampling_options.MaxTokens = None,
    temperature: sampling_options.Temperature = None,
    top_k: sampling_options.TopK = None,
    top_p: sampling_options.TopP = None,
    min_p: sampling_options.MinP = None,
    repetition_penalty: sampling_options.RepetitionPenalty = None,
    seed: sampling_options.Seed = None,
    stop: sampling_options.Stop = None,
    ignore_eos: Annotated[bool | None, typer.Option("--ignore-eos", help="Go on after end of text.")] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Say on stderr what it used and cost.")] = False,
) -> None:
    """Complete a prompt, streaming as it is produced."""
    if prompt is None or prompt == "-":
        prompt = sys.stdin.read()
    messages = [{"role": "user", "content": prompt}] if as_chat or system is not None else None
    if messages is not None and system is not None:
        messages.insert(0, {"role": "system", "content": system})
    with session.client(context) as client:
        stream = client.generate(
            model,
            None if messages is not None else prompt,
            messages=messages,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
            ignore_eos=ignore_eos,
        )
        answer.print_live(stream)
    if stats:
        console.note(answer.summary(stream.completion), "dim")
