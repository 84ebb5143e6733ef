"""Tokens to text as they come, and stop strings found across the borders of tokens. Free of the engine's loop."""

from collections.abc import Sequence
from typing import Protocol

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# A UTF-8 character has at most four bytes, so that many less one may wait for the last.
_MAX_UNFINISHED = 3
# A decoder joins neighbours, drops the first one's leading space, and so on: it must see some tokens before.
_CONTEXT = 8
_MAX_WINDOW = 16


class Decoder(Protocol):
    """What is needed of `tokenizers.Tokenizer`."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids; what is not UTF-8 becomes U+FFFD."""
        ...


class Detokenizer:
    """One sequence's text. What it returns, joined, is what the tokenizer makes of all tokens at once.

    Never returns half a character: bytes that may be the beginning of one wait for the rest. `tokenizers` has
    a DecodeStream, but that keeps what is left at the end to itself.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._window: list[int] = []
        self._sent = 0
        """Characters of the window's text that have been returned."""

    def push(self, token_id: int) -> str:
        """The text that this token completes; often empty."""
        self._window.append(token_id)
        text = self._text()
        unfinished = len(text) - len(text.rstrip(REPLACEMENT))
        settled = len(text) - min(unfinished, _MAX_UNFINISHED)
        piece = text[self._sent : settled]
        self._sent = max(self._sent, settled)
        if len(self._window) > _MAX_WINDOW:
            self._shorten(text)
        return piece

    def finish(self) -> str:
        """What is left when no token follows; an unfinished character comes out as U+FFFD."""
        text = self._text()
        piece = text[self._sent :]
        self._sent = len(text)
        return piece

    def _shorten(self, text: str) -> None:
        """Forget the oldest tokens, unless the others would then read otherwise."""
        recent = self._window[-_CONTEXT:]
        end = self._decoder.decode(recent, skip_special_tokens=True)
        waiting = len(text) - self._sent
        if text.endswith(end) and waiting <= len(end):
            self._window = recent
            self._sent = len(end) - waiting

    def _text(self) -> str:
        return self._decoder.decode(self._window, skip_special_tokens=True)


class StopStrings:
    """Watches a text for stop strings. The one that is completed first counts, however the text is cut up.

    Text that may be the beginning of a stop string is held back; a stop string itself is never returned.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, piece: str) -> tuple[str, str | None]:
        """(text that can be returned now, the stop string that was completed or None).

        After a stop string nothing more may be pushed.
        """
        text = self._held + piece
        found = self._first_completed(text)
        if found is not None:
            self._held = ""
            return text[: found[0]], found[1]
        keep = self._longest_beginning(text)
        settled = len(text) - keep
        self._held = text[settled:]
        return text[:settled], None

    def finish(self) -> str:
        """What was held back, when no text follows."""
        held, self._held = self._held, ""
        return held

    def _first_completed(self, text: str) -> tuple[int, str] | None:
        """(where it begins, stop string); of two completed by the same character the longer."""
        found: tuple[int, int, str] | None = None
        for stop in self._stops:
            begin = text.find(stop)
            if begin >= 0 and (found is None or (begin + len(stop), begin) < found[:2]):
                found = (begin + len(stop), begin, stop)
        return None if found is None else (found[1], found[2])

    def _longest_beginning(self, text: str) -> int:
        """How many of the last characters may become a stop string."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest


class TextStream:
    """A sequence's tokens in, its text out, up to the first stop string."""

    def __init__(self, decoder: Decoder, stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(decoder)
        self._stops = StopStrings(stops)
        self.stop: str | None = None
        """The stop string that ended the text; nothing may be pushed after it."""

    def push(self, token_id: int) -> str:
        """The text that can be returned after this token."""
        text, self.stop = self._stops.push(self._detokenizer.push(token_id))
        return text

    def finish(self) -> str:
        """The rest of the text when the engine ended the sequence; a stop string may still be found in it."""
        text, self.stop = self._stops.push(self._detokenizer.finish())
        return text if self.stop is not None else text + self._stops.finish()
