"""`loramux chat`."""

# ruff: noqa: PLC0415  # readline is wanted on a terminal only
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from loramux.cli import console, session
from loramux.cli.commands import answer, sampling_options

_HELP = "/reset forgets the conversation, /exit (or Ctrl-D) ends it"


def chat(
    context: typer.Context,
    *,
    model: Annotated[str, typer.Argument(help="A base model, or a deployment as account/name.")],
    system: sampling_options.System = None,
    max_tokens: sampling_options.MaxTokens = None,
    temperature: sampling_options.Temperature = None,
    top_k: sampling_options.TopK = None,
    top_p: sampling_options.TopP = None,
    min_p: sampling_options.MinP = None,
    repetition_penalty: sampling_options.RepetitionPenalty = None,
    seed: sampling_options.Seed = None,
) -> None:
    """Talk with a model; it remembers the conversation.

    From a pipe, each line of stdin is a message, and stdout holds the answers alone.
    """
    interactive = sys.stdin.isatty()
    opening = [] if system is None else [{"role": "system", "content": system}]
    messages = list(opening)
    with session.client(context) as client:
        if interactive:
            console.note(f"{model}: {_HELP}", "dim")
        for line in _lines(interactive=interactive):
            match line:
                case "":
                    continue
                case "/exit":
                    return
                case "/reset":
                    messages = list(opening)
                    continue
                case "/help":
                    console.note(_HELP, "dim")
                    continue
            messages.append({"role": "user", "content": line})
            stream = client.generate(
                model,
                messages=messages,
                max_tokens=max_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                min_p=min_p,
                repetition_penalty=repetition_penalty,
                seed=seed,
            )
            messages.append({"role": "assistant", "content": answer.print_live(stream)})
            if interactive:
                console.note(answer.summary(stream.completion), "dim")


def _lines(*, interactive: bool) -> Iterator[str]:
    if not interactive:
        for line in sys.stdin:
            yield line.strip()
        return
    import readline  # noqa: F401  # gives input() its line editing

    while True:
        try:
            yield input("> ").strip()
        except EOFError:
            console.write("\n")
            return
