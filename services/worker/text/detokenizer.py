"""Tokens to text as they come."""

import os
from collections.abc import Sequence

from services.worker.text.vocabulary import Vocabulary

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# A UTF-8 character has at most four bytes, so that many less one may wait for the last.
_MAX_UNFINISHED = 3
# A decoder joins neighbours, drops the first one's leading space, and so on: it must see some tokens before.
_CONTEXT = 8
_MAX_WINDOW = 16


class Detokenizer:
    """One sequence's text. What it returns, joined, is the tokenizer's text of prompt and output, less the prompt's.

    Where the output completes a character of the prompt, the prompt's text ends before that character. Never returns
    what a later token can change: bytes that may be the beginning of a character wait for the rest, and where the
    tokenizer decodes bytes by runs, a run waits for its end. `tokenizers` has a DecodeStream, but that keeps what is
    left at the end to itself.
    """

    def __init__(self, vocabulary: Vocabulary, prompt: Sequence[int] = ()) -> None:
        self._vocabulary = vocabulary
        self._window = self._tail(prompt)
        """The last tokens that have text, the prompt's among them."""
        self._prompt_text = vocabulary.decode(self._window)
        """Of the window's, until the output's text has parted from it."""
        self._sent = self._settled(self._prompt_text)
        """Characters of the window's text that have been returned, or are the prompt's."""

    def push(self, token_id: int) -> str:
        """The text that this token completes; often empty."""
        if self._vocabulary.is_silent(token_id):
            return ""
        self._window.append(token_id)
        if self._vocabulary.is_byte(token_id):
            return ""
        text = self._vocabulary.decode(self._window)
        piece = self._take(text, self._settled(text))
        if len(self._window) > _MAX_WINDOW and not self._prompt_text:
            self._shorten(text)
        return piece

    def finish(self) -> str:
        """What is left when no token follows; an unfinished character comes out as U+FFFD."""
        text = self._vocabulary.decode(self._window)
        return self._take(text, len(text))

    def _take(self, text: str, settled: int) -> str:
        if self._prompt_text and settled > self._sent:
            same = len(os.path.commonprefix([self._prompt_text, text[:settled]]))  # noqa: RUF071  # of characters
            if same < settled or settled == len(self._prompt_text):
                self._prompt_text = ""
            self._sent = same
        piece = text[self._sent : settled]
        self._sent = max(self._sent, settled)
        return piece

    def _settled(self, text: str) -> int:
        """How many characters of the window's text stay as they are, whatever follows."""
        run = self._run_before(len(self._window))
        if run < len(self._window):
            text = self._vocabulary.decode(self._window[:run])
        unfinished = len(text) - len(text.rstrip(REPLACEMENT))
        return len(text) - min(unfinished, _MAX_UNFINISHED)

    def _run_before(self, end: int) -> int:
        """Where the run of bytes begins that ends before place `end` of the window; `end` itself where there is none."""
        while end > 0 and self._vocabulary.is_byte(self._window[end - 1]):
            end -= 1
        return end

    def _tail(self, prompt: Sequence[int]) -> list[int]:
        """The last tokens of the prompt that have text, enough to see how the output's continue it."""
        tail: list[int] = []
        for token_id in reversed(prompt):
            if self._vocabulary.is_silent(token_id):
                continue
            if len(tail) >= _MAX_WINDOW and not (
                self._vocabulary.is_byte(token_id) and self._vocabulary.is_byte(tail[-1])
            ):
                break
            tail.append(token_id)
        return tail[::-1]

    def _shorten(self, text: str) -> None:
        """Forget the oldest tokens, unless the others would then read otherwise."""
        begin = len(self._window) - _CONTEXT
        if self._vocabulary.is_byte(self._window[begin]):
            begin = self._run_before(begin)
        recent = self._window[begin:]
        end = self._vocabulary.decode(recent)
        waiting = len(text) - self._sent
        if text.endswith(end) and waiting <= len(end):
            self._window = recent
            self._sent = len(end) - waiting
