"""What a request yields, and the mailbox where it waits for a reader that lags."""

import asyncio
from dataclasses import dataclass

from services.worker.engine.interface import Finish, TokenLogprob


@dataclass(frozen=True)
class Started:
    """The prompt is computed."""

    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True)
class Chunk:
    """What was produced since the last chunk of the same choice."""

    text: str
    """Whole characters; may lag behind token_ids while it can be the beginning of a stop string."""
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    choice: int = 0

    def __add__(self, later: "Chunk") -> "Chunk":
        """This and a later chunk of the same choice."""
        return Chunk(
            self.text + later.text,
            self.token_ids + later.token_ids,
            self.logprobs + later.logprobs,
            self.choice,
        )


@dataclass(frozen=True)
class Choice:
    """How one choice ended."""

    finish: Finish
    stop: str = ""
    """The stop string that ended it; empty where none did."""


@dataclass(frozen=True)
class Summary:
    """How a request ended."""

    choices: tuple[Choice, ...]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    """All that were produced, those of the stop string included."""


class Mailbox:
    """Between who produces and who reads: that it started, a chunk of each choice at most, into which later ones are joined; then the end.

    Putting never waits, so a slow reader holds nothing up; what waits for it is bounded by max_tokens.
    """

    def __init__(self) -> None:
        self._started: Started | None = None
        self._chunks: dict[int, Chunk] = {}
        self._end: Summary | Exception | None = None
        self._arrived = asyncio.Event()

    def start(self, started: Started) -> None:
        """Before the first chunk."""
        self._started = started
        self._arrived.set()

    def put(self, chunk: Chunk) -> None:
        """Add what was produced."""
        earlier = self._chunks.get(chunk.choice)
        self._chunks[chunk.choice] = chunk if earlier is None else earlier + chunk
        self._arrived.set()

    def end(self, outcome: Summary | Exception) -> None:
        """Nothing follows."""
        self._end = outcome
        self._arrived.set()

    async def take(self) -> Started | Chunk | Summary:
        """What has come, else wait for it. Raises the exception that ended the request, after its last chunk."""
        await self._arrived.wait()
        if self._started is not None:
            started, self._started = self._started, None
            if not self._chunks and self._end is None:
                self._arrived.clear()
            return started
        if self._chunks:
            chunk = self._chunks.pop(next(iter(self._chunks)))
            if not self._chunks and self._end is None:
                self._arrived.clear()
            return chunk
        assert self._end is not None
        if isinstance(self._end, Exception):
            raise self._end
        return self._end
