"""How many prompt tokens a step may take in: by the time that they take on this machine, and not by their number."""

from dataclasses import dataclass

# A token is waited for so long at most while somebody's answer streams, where decoding itself leaves room for that.
_STEP_SECONDS = 0.1
# And so long does who has just come wait for a step that began without him, where nobody's does.
_QUIET_STEP_SECONDS = 0.5
# Before anything was measured.
_FIRST_GUESS_SECONDS = 0.001
_WEIGHT_OF_THE_LATEST = 0.25
_PROMPTS_PART = 0.03


@dataclass
class PrefillPace:
    """Learns what a prompt token and a step of decoding take, and says what fits."""

    least: int
    """Tokens; whatever the clock says, prompts go on."""
    most: int
    _token_seconds: float = _FIRST_GUESS_SECONDS
    _decode_seconds: float = 0.0

    def budget(self, decoding: int) -> int:
        """Prompt tokens for the next step, in which so many sequences decode."""
        seconds = _QUIET_STEP_SECONDS
        if decoding:
            # Where decoding alone takes as long, half as much again: those who wait must come to decode, too.
            seconds = max(_STEP_SECONDS - self._decode_seconds, self._decode_seconds / 2)
        return min(max(int(seconds / self._token_seconds), self.least), self.most)

    def note(self, seconds: float, prompt_tokens: int, decoding: int) -> None:
        """A step has taken so long."""
        if not prompt_tokens:
            self._decode_seconds = _later(self._decode_seconds, seconds)
        elif not decoding:
            self._token_seconds = _later(self._token_seconds, seconds / prompt_tokens)
        else:
            # What was not foreseen is laid to decoding above all: what a token of a prompt takes is known from steps of
            # prompts alone, with which every engine begins; a larger batch is what changes.
            unforeseen = seconds - self._decode_seconds - prompt_tokens * self._token_seconds
            decode = self._decode_seconds + _WEIGHT_OF_THE_LATEST * (1 - _PROMPTS_PART) * unforeseen
            token = self._token_seconds + _WEIGHT_OF_THE_LATEST * _PROMPTS_PART * unforeseen / prompt_tokens
            self._decode_seconds = max(decode, 0.0)
            self._token_seconds = max(token, self._token_seconds / 2)


def _later(known: float, measured: float) -> float:
    return known + _WEIGHT_OF_THE_LATEST * (measured - known)
