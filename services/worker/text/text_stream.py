"""A sequence's tokens in, its text out, up to the first stop string."""

from collections.abc import Sequence

from services.worker.text.detokenizer import Detokenizer
from services.worker.text.stop_strings import StopStrings
from services.worker.text.vocabulary import Vocabulary


class TextStream:
    """One sequence's text. A stop string that is a special token is found as that token too, which has no text."""

    def __init__(self, vocabulary: Vocabulary, prompt: Sequence[int], stops: Sequence[str]) -> None:
        """`prompt`: what the sequence began with; stop strings are looked for behind it."""
        self._detokenizer = Detokenizer(vocabulary, prompt)
        self._stops = StopStrings(stops)
        self._stop_tokens = {
            vocabulary.special_ids[stop]: stop for stop in stops if stop in vocabulary.special_ids
        }
        self.stop: str | None = None
        """The stop string that ended the text; nothing may be pushed after it."""

    def push(self, token_id: int) -> str:
        """The text that can be returned after this token."""
        if token_id in self._stop_tokens:
            text = self.finish()
            self.stop = self.stop or self._stop_tokens[token_id]
            return text
        text, self.stop = self._stops.push(self._detokenizer.push(token_id))
        return text

    def finish(self) -> str:
        """The rest of the text when the engine ended the sequence; a stop string may still be found in it."""
        text, self.stop = self._stops.push(self._detokenizer.finish())
        return text if self.stop is not None else text + self._stops.finish()
