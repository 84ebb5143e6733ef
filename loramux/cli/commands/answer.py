"""Streams an answer to stdout."""

from typing import TYPE_CHECKING

from loramux.cli import console, money

if TYPE_CHECKING:
    from loramux.results import Completion
    from loramux.sync_streams import SyncGenerateStream


def print_live(stream: "SyncGenerateStream") -> str:
    """Write the text as it comes, and a newline at its end; returns the text.

    Whatever ends it, Ctrl-C included, also ends the call, at once.
    """
    texts = []
    with stream:
        try:
            for chunk in stream:
                # Noted first: Ctrl-C may arrive in the middle of writing.
                texts.append(chunk.text)
                console.write(chunk.text)
        finally:
            if texts and not texts[-1].endswith("\n"):
                console.write("\n")
    return "".join(texts)


def summary(completion: "Completion") -> str:
    """What it used and cost, in one line."""
    usage = completion.usage
    return (
        f"{usage.prompt_tokens} prompt + {usage.completion_tokens} completion tokens, "
        f"{money.usd(completion.cost.total_pico_usd)}, {completion.finish_reason}"
    )
