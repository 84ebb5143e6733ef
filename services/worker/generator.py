"""One request from prompt to last chunk: its adapter held, its sequence run, its text and stop strings."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from services.common import errors, logs
from services.common.adapters.version import AdapterVersion
from services.worker.adapters.ready_adapters import Adapters, engine_stopped
from services.worker.chunks import Choice, Chunk, Mailbox, Started, Summary
from services.worker.engine.interface import (
    Engine,
    EngineOutput,
    EngineRequest,
    EngineStoppedError,
    Finish,
    Sampling,
)
from services.worker.text.resumed_text import Resumed, replay
from services.worker.text.text_stream import TextStream
from services.worker.text.vocabulary import Vocabulary

_RETRY_AFTER = 1.0
_SEEDS = 2**64

_log = logs.get_logger(__name__)


@dataclass(frozen=True)
class Request:
    """One request, checked by the gateway."""

    request_id: str
    account_id: str
    adapter: AdapterVersion | None
    """None runs the base."""
    prompt: tuple[int, ...]
    sampling: Sampling
    stop: tuple[str, ...] = ()
    choices: int = 1
    """How many to draw; each has a seed of its own."""
    account_weight: float = 1.0
    resumed: Mapping[int, Resumed] = field(default_factory=dict)
    """By choice, what another worker had produced; fewer tokens than max_tokens, or as many."""


@dataclass
class Totals:
    """Tokens since the start, as the gateways were told."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Generator:
    """Runs requests on one engine; a reader that lags gets what came meanwhile in one chunk."""

    def __init__(
        self, engine: Engine, adapters: Adapters, vocabulary: Vocabulary, *, max_requests: int
    ) -> None:
        """`max_requests` counts those that run and those that wait, by choices; `vocabulary` is the base's."""
        self._engine = engine
        self._adapters = adapters
        self._vocabulary = vocabulary
        self._max_requests = max_requests
        self._taken = 0
        self._draining = False
        self.totals = Totals()

    def drain(self) -> None:
        """Refuse new requests from now on."""
        self._draining = True

    async def run(self, request: Request) -> AsyncGenerator[Started | Chunk | Summary]:
        """Yield that it started, chunks, then one summary. Closing the iterator ends the sequence and drops its pin at once.

        Raises UnavailableError DRAINING, QUEUE_FULL or ENGINE_STOPPED, InvalidFieldError, and whatever
        fetching the adapter raises.
        """
        mailbox = Mailbox()
        # A task of its own, so that stop strings end the sequence, and its pin drops, however slowly one reads.
        producer = asyncio.create_task(self._produce(request, mailbox))
        try:
            event = await mailbox.take()
            self.totals.prompt_tokens += len(request.prompt)
            while not isinstance(event, Summary):
                if isinstance(event, Chunk):
                    self.totals.completion_tokens += len(event.token_ids)
                yield event
                event = await mailbox.take()
            yield event
        finally:
            producer.cancel()
            await asyncio.gather(producer, return_exceptions=True)

    async def _produce(self, request: Request, mailbox: Mailbox) -> None:
        try:
            with self._places(request.choices):
                adapter = request.adapter
                async with self._adapters.hold(adapter) if adapter is not None else nullcontext():
                    summary = await self._choose(request, mailbox)
            mailbox.end(summary)
        except Exception as error:  # whatever it is, the reader raises it
            mailbox.end(error)

    async def _choose(self, request: Request, mailbox: Mailbox) -> Summary:
        """Run the choices: one of them alone until its prompt is computed, which the others then find in the cache."""
        begun = asyncio.Event()
        answers = await self._answers(request)
        # One that another worker had brought to its end computes no prompt.
        first = next((one for one in answers if one.choice is None), answers[0])
        choices = [asyncio.create_task(self._generate(request, first, mailbox, begun))]
        waiting = asyncio.create_task(begun.wait())
        try:
            if request.choices > 1:
                await asyncio.wait((*choices, waiting), return_when=asyncio.FIRST_COMPLETED)
            if begun.is_set():
                choices += [
                    asyncio.create_task(self._generate(request, one, mailbox, begun))
                    for one in answers
                    if one is not first
                ]
            await asyncio.gather(*choices)
        finally:
            for task in (*choices, waiting):
                task.cancel()
            await asyncio.gather(*choices, waiting, return_exceptions=True)
        return Summary(
            choices=tuple(one.choice for one in answers if one.choice is not None),
            prompt_tokens=len(request.prompt),
            cached_tokens=first.cached_tokens,
            completion_tokens=sum(one.tokens for one in answers),
        )

    async def _answers(self, request: Request) -> "list[_Answer]":
        def make() -> list[_Answer]:
            return [_Answer(self._vocabulary, request, index) for index in range(request.choices)]

        # What another worker produced is turned into text once more, for which others' tokens are not to wait.
        return await asyncio.to_thread(make) if request.resumed else make()

    async def _generate(
        self, request: Request, answer: "_Answer", mailbox: Mailbox, begun: asyncio.Event
    ) -> None:
        """Run one choice to its end; `begun` is set with its first output."""
        if answer.choice is not None:
            _begin(mailbox, begun, Started(len(request.prompt), 0))
            answer.put_into(mailbox)
            return
        index = answer.index
        sequence = EngineRequest(
            request_id=request.request_id,
            account_id=request.account_id,
            prompt=request.prompt,
            sampling=replace(request.sampling, seed=(request.sampling.seed + index) % _SEEDS),
            adapter=request.adapter.digest if request.adapter is not None else None,
            account_weight=request.account_weight,
            produced=answer.resumed.token_ids,
        )
        try:
            async with aclosing(self._engine.generate(sequence)) as outputs:
                async for output in outputs:
                    _begin(mailbox, begun, Started(len(request.prompt), output.cached_tokens))
                    answer.take(output)
                    answer.put_into(mailbox)
                    if answer.choice is not None:
                        return
        except EngineStoppedError as error:
            _log.warning("sequence_ended_by_engine", why=str(error))
        raise engine_stopped()

    @contextmanager
    def _places(self, choices: int) -> Iterator[None]:
        """A place for each choice: they run, or wait to run, like requests of their own. One request always fits."""
        if self._draining:
            raise errors.UnavailableError(
                "DRAINING", "the worker is stopping and takes no new requests", retry_after=_RETRY_AFTER
            )
        if self._taken and self._taken + choices > self._max_requests:
            raise errors.UnavailableError(
                "QUEUE_FULL",
                f"the worker has {self._taken} requests running and waiting, and takes at most {self._max_requests}",
                retry_after=_RETRY_AFTER,
            )
        self._taken += choices
        try:
            yield
        finally:
            self._taken -= choices


class _Answer:
    """One choice: what has come of it, where another worker left off or from the beginning, and how it ended."""

    def __init__(self, vocabulary: Vocabulary, request: Request, index: int) -> None:
        """Raises InvalidFieldError for what cannot be resumed."""
        self.index = index
        self.resumed = request.resumed.get(index, Resumed())
        self.cached_tokens = 0
        self.tokens = len(self.resumed.token_ids)
        """All that were produced, elsewhere too."""
        self.choice: Choice | None = None
        """How it ended; None while it runs."""
        self._text = TextStream(vocabulary, request.prompt, request.stop)
        is_all = 0 < request.sampling.max_tokens <= self.tokens
        unsent, had_ended = replay(self._text, self.resumed, is_all=is_all)
        self._ready = Chunk(unsent, (), choice=index)
        if had_ended:
            self._end(Finish.LENGTH if is_all else Finish.STOP)

    def take(self, output: EngineOutput) -> None:
        """Its tokens, up to the one that completes a stop string; the engine may have run further."""
        self.cached_tokens = max(self.cached_tokens, output.cached_tokens)
        pieces: list[str] = []
        used = 0
        for token_id in output.token_ids:
            pieces.append(self._text.push(token_id))
            used += 1
            if self._text.stop is not None:
                break
        if output.finish is not None and self._text.stop is None:
            pieces.append(self._text.finish())
        self.tokens += used
        self._ready += Chunk("".join(pieces), output.token_ids[:used], output.logprobs[:used], self.index)
        if self._text.stop is not None or output.finish is not None:
            self._end(output.finish)

    def put_into(self, mailbox: Mailbox) -> None:
        """Hand over what has come."""
        chunk, self._ready = self._ready, Chunk("", (), choice=self.index)
        if chunk.text or chunk.token_ids:
            mailbox.put(chunk)

    def _end(self, finish: Finish | None) -> None:
        if self._text.stop is not None or finish is None:
            finish = Finish.STOP
        self.choice = Choice(finish, self._text.stop or "")


def _begin(mailbox: Mailbox, begun: asyncio.Event, started: Started) -> None:
    """Say it once, with the first output of any choice."""
    if not begun.is_set():
        mailbox.start(started)
        begun.set()
