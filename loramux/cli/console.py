"""What every command prints with: results on stdout, everything else on stderr."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from google.protobuf.message import Message

# So wide that nothing is wrapped for a program that reads.
_NO_TERMINAL_WIDTH = 10_000


def err() -> Console:
    """For progress, notes and errors."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def note(text: str, style: str = "") -> None:
    """A line for people, on stderr."""
    err().print(Text(text, style))


def error(text: str) -> None:
    """What went wrong, in one line."""
    err().print(Text.assemble(("error: ", "bold red"), " ".join(text.split())))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table on stdout; the headings in `right` are of numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))
    width = None if sys.stdout.isatty() else _NO_TERMINAL_WIDTH
    Console(highlight=False, width=width).print(made)


def fields(pairs: Iterable[tuple[str, str]]) -> None:
    """One thing with its fields, a line each; empty ones are left out."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            made.add_row(name, Text(value))
    width = None if sys.stdout.isatty() else _NO_TERMINAL_WIDTH
    Console(highlight=False, width=width).print(made)


def print_json(messages: "Iterable[Message] | Message") -> None:
    """Messages in protobuf's own JSON form, fields by their proto names; a list for several."""
    from google.protobuf.json_format import MessageToDict  # noqa: PLC0415  # only --json needs it
    from google.protobuf.message import Message  # noqa: PLC0415

    def plain(message: Message) -> object:
        return MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )

    value = plain(messages) if isinstance(messages, Message) else [plain(one) for one in messages]
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def write(text: str) -> None:
    """Text of a model, at once. On a terminal without what would move its cursor or change its settings."""
    if sys.stdout.isatty():
        text = "".join(one for one in text if one.isprintable() or one in "\n\t")
    sys.stdout.write(text)
    sys.stdout.flush()
