"""Stop strings found in a text that comes in pieces."""

from collections.abc import Sequence


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
