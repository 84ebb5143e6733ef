"""What of a sequence's tokens weighs in the choice of the next: kept as it grows, and not counted anew in each step."""

from array import array
from collections.abc import Sequence

from services.worker.engine.interface import Sampling


class Reweighting:
    """One sequence's penalties and bias, as arrays of C numbers that a kernel reads where they lie."""

    def __init__(self, sampling: Sampling) -> None:
        self.tokens = array("i")
        """Each token of prompt and output once, in order of its first place."""
        self.counts = array("i")
        """How often each of them is in the output."""
        self.biased = array("i", sampling.logit_bias.keys())
        self.bias = array("f", sampling.logit_bias.values())
        """Of each of `biased`."""
        penalties = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty)
        self._counts_tokens = penalties != (1.0, 0.0, 0.0)
        self._places: dict[int, int] = {}
        self._taken = 0

    @classmethod
    def of(cls, sampling: Sampling) -> "Reweighting | None":
        """None where nothing is reweighted."""
        made = cls(sampling)
        return made if made._counts_tokens or made.biased else None

    def take(self, tokens: Sequence[int], prompt_length: int) -> None:
        """Count what has come since the last call; `tokens` are prompt and output."""
        if not self._counts_tokens:
            return
        for place in range(self._taken, len(tokens)):
            token = tokens[place]
            index = self._places.setdefault(token, len(self.tokens))
            if index == len(self.tokens):
                self.tokens.append(token)
                self.counts.append(0)
            self.counts[index] += place >= prompt_length
        self._taken = len(tokens)
