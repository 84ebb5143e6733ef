"""Chunks, stop strings and counts of a request, on an engine whose outputs are written down."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from services.common import errors
from services.common.hub import HubClient
from services.worker.adapters.adapter_store import AdapterStore
from services.worker.adapters.ready_adapters import Adapters
from services.worker.chunks import Choice, Chunk, Mailbox, Started, Summary
from services.worker.engine.interface import (
    AdapterFiles,
    EngineCapabilities,
    EngineOutput,
    EngineRequest,
    EngineStats,
    EngineStoppedError,
    Finish,
    Sampling,
    TokenLogprob,
)
from services.worker.generator import Generator, Request
from services.worker.text.vocabulary import AddedToken, Vocabulary


class ScriptedEngine:
    """Joined outputs, which a real engine makes only for a reader that lags, and failures on demand."""

    context_length = 100

    def __init__(self, outputs: Sequence[EngineOutput | Exception], *, endless: bool = False) -> None:
        self.outputs = outputs
        self.endless = endless
        """Nothing more comes after the outputs, and the sequence does not end."""
        self.closed = 0
        self.ended = asyncio.Event()

    @property
    def failed(self) -> "asyncio.Future[None]":
        return asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def adapter(self, _files: AdapterFiles) -> AsyncIterator[None]:
        yield

    async def generate(self, _request: EngineRequest) -> AsyncGenerator[EngineOutput]:
        try:
            for output in self.outputs:
                if isinstance(output, Exception):
                    raise output
                yield output
                await asyncio.sleep(0)  # as a real one, it does not have all at once
            if self.endless:
                await asyncio.Event().wait()
        finally:
            self.closed += 1
            self.ended.set()

    @property
    def capabilities(self) -> EngineCapabilities:
        return EngineCapabilities("scripted", "by hand", (), 0, "float32")

    def stats(self) -> EngineStats:
        return EngineStats()

    async def stop(self) -> None:
        pass


class Letters:
    """Token ids are code points."""

    decoder = None

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return "".join(map(chr, ids))

    def id_to_token(self, id: int) -> str:  # noqa: A002
        return chr(id)

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        return {}


def ids(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def generator(folder: Path, engine: ScriptedEngine, *, max_requests: int = 4) -> Generator:
    async def no_token(_uid: str, _digest: str) -> str:
        return ""

    store = AdapterStore(folder, HubClient("http://127.0.0.1:9"), no_token, quota_bytes=1)
    adapters = Adapters(store, engine, probe_prompt=[1], changed=lambda: None)
    return Generator(engine, adapters, Vocabulary(Letters()), max_requests=max_requests)


def request(*stop: str) -> Request:
    return Request("r", "a", None, (1, 2, 3), Sampling(max_tokens=50), stop)


async def events(generator: Generator, request: Request) -> list[Chunk | Summary]:
    async with aclosing(generator.run(request)) as stream:
        return [event async for event in stream if not isinstance(event, Started)]


async def test_each_output_is_a_chunk_and_the_last_event_counts(tmp_path: Path) -> None:
    engine = ScriptedEngine(
        [EngineOutput(ids("ab"), cached_tokens=2), EngineOutput(ids("c"), finish=Finish.LENGTH)]
    )
    run = generator(tmp_path, engine)
    assert await events(run, request()) == [
        Chunk("ab", ids("ab")),
        Chunk("c", ids("c")),
        Summary((Choice(Finish.LENGTH),), prompt_tokens=3, cached_tokens=2, completion_tokens=3),
    ]
    assert (run.totals.prompt_tokens, run.totals.completion_tokens) == (3, 3)


async def test_a_stop_token_at_once_gives_no_chunk(tmp_path: Path) -> None:
    run = generator(tmp_path, ScriptedEngine([EngineOutput((), finish=Finish.STOP)]))
    assert await events(run, request()) == [Summary((Choice(Finish.STOP),), 3, 0, 0)]


async def test_tokens_up_to_the_stop_string_count_however_they_are_joined(tmp_path: Path) -> None:
    joined = ScriptedEngine([EngineOutput(ids("one END two"), finish=Finish.LENGTH)])
    single = ScriptedEngine([EngineOutput((one,)) for one in ids("one END two")])
    for number, engine in enumerate((joined, single)):
        *chunks, summary = await events(generator(tmp_path / str(number), engine), request("END"))
        assert "".join(chunk.text for chunk in chunks if isinstance(chunk, Chunk)) == "one "
        assert [one for chunk in chunks if isinstance(chunk, Chunk) for one in chunk.token_ids] == list(
            ids("one END")
        )
        assert summary == Summary((Choice(Finish.STOP, "END"),), 3, 0, len("one END"))
        assert engine.closed == 1


async def test_log_probabilities_end_with_the_token_they_belong_to(tmp_path: Path) -> None:
    logprobs = tuple(TokenLogprob(one, -0.5, ()) for one in ids("aXb"))
    engine = ScriptedEngine([EngineOutput(ids("aXb"), logprobs, finish=Finish.LENGTH)])
    assert await events(generator(tmp_path, engine), request("X")) == [
        Chunk("a", ids("aX"), logprobs[:2]),
        Summary((Choice(Finish.STOP, "X"),), 3, 0, 2),
    ]


async def test_what_was_held_back_for_a_stop_string_comes_with_the_last_chunk(tmp_path: Path) -> None:
    engine = ScriptedEngine([EngineOutput(ids("aE")), EngineOutput(ids("N"), finish=Finish.LENGTH)])
    assert await events(generator(tmp_path, engine), request("END")) == [
        Chunk("a", ids("aE")),
        Chunk("EN", ids("N")),
        Summary((Choice(Finish.LENGTH),), 3, 0, 3),
    ]


async def test_an_engine_that_stops_ends_the_request_as_unavailable(tmp_path: Path) -> None:
    engine = ScriptedEngine([EngineOutput(ids("a")), EngineStoppedError("gone")])
    run = generator(tmp_path, engine)
    with pytest.raises(errors.UnavailableError) as caught:
        await events(run, request())
    assert caught.value.reason == "ENGINE_STOPPED"


async def test_closing_a_request_closes_its_sequence_and_frees_its_place(tmp_path: Path) -> None:
    engine = ScriptedEngine([EngineOutput(ids("a"))], endless=True)
    run = generator(tmp_path, engine, max_requests=1)
    for round_number in (1, 2):
        stream = run.run(request())
        await anext(stream)
        await stream.aclose()
        assert engine.closed == round_number


async def test_a_request_says_once_that_its_prompt_is_computed_and_what_was_cached(tmp_path: Path) -> None:
    engine = ScriptedEngine(
        [EngineOutput(ids("a"), cached_tokens=2), EngineOutput(ids("b"), finish=Finish.STOP)]
    )
    async with aclosing(generator(tmp_path, engine).run(request())) as stream:
        seen = [event async for event in stream]
    assert [event for event in seen if isinstance(event, Started)] == [Started(3, 2)] == seen[:1]


async def test_a_reader_that_lags_holds_nothing_up_and_gets_one_chunk(tmp_path: Path) -> None:
    engine = ScriptedEngine([EngineOutput((one,)) for one in ids("one END two")])
    async with aclosing(generator(tmp_path, engine).run(request("END"))) as stream:
        assert await anext(stream) == Started(prompt_tokens=3, cached_tokens=0)
        first = await anext(stream)
        await engine.ended.wait()
        rest = [event async for event in stream]
    assert isinstance(first, Chunk)
    assert isinstance(rest[0], Chunk)
    assert (first + rest[0]) == Chunk("one ", ids("one END"))
    assert rest[1:] == [Summary((Choice(Finish.STOP, "END"),), 3, 0, 7)]


class CountingEngine(ScriptedEngine):
    """Each sequence says its seed's last letter, and how many ran when it began."""

    def __init__(self) -> None:
        super().__init__([])
        self.seeds: list[int] = []

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput]:
        self.seeds.append(request.sampling.seed)
        letter = ord("a") + request.sampling.seed % 26
        yield EngineOutput((letter,), cached_tokens=0 if len(self.seeds) == 1 else 2)
        await asyncio.sleep(0)
        yield EngineOutput((letter,), finish=Finish.LENGTH)


async def test_each_choice_has_a_seed_of_its_own_and_its_own_chunks(tmp_path: Path) -> None:
    engine = CountingEngine()
    asked = replace(request(), choices=3, sampling=Sampling(max_tokens=2, seed=2**64 - 1))
    *chunks, summary = await events(generator(tmp_path, engine), asked)
    assert engine.seeds == [2**64 - 1, 0, 1]
    texts = {0: "", 1: "", 2: ""}
    for chunk in chunks:
        assert isinstance(chunk, Chunk)
        texts[chunk.choice] += chunk.text
    last = chr(ord("a") + (2**64 - 1) % 26)
    assert texts == {0: 2 * last, 1: "aa", 2: "bb"}
    assert summary == Summary((Choice(Finish.LENGTH),) * 3, 3, 0, 6)


async def test_one_choice_that_fails_ends_the_request_and_every_sequence(tmp_path: Path) -> None:
    engine = ScriptedEngine([EngineStoppedError("gone")])
    with pytest.raises(errors.UnavailableError):
        await events(generator(tmp_path, engine), replace(request(), choices=4))
    assert engine.closed == 1  # the others never began


async def test_closing_a_request_closes_every_choice(tmp_path: Path) -> None:
    engine = ScriptedEngine([EngineOutput(ids("a"))], endless=True)
    stream = generator(tmp_path, engine).run(replace(request(), choices=3))
    assert isinstance(await anext(stream), Started)
    assert {(await anext(stream)).choice for _ in range(3)} == {0, 1, 2}  # type: ignore[union-attr]
    await stream.aclose()
    assert engine.closed == 3


async def test_what_was_produced_comes_before_the_error_that_ended_it() -> None:
    mailbox = Mailbox()
    mailbox.put(Chunk("a", (1,)))
    mailbox.end(errors.UnavailableError("ENGINE_STOPPED", "gone", retry_after=1))
    assert await mailbox.take() == Chunk("a", (1,))
    with pytest.raises(errors.UnavailableError):
        await mailbox.take()


async def test_every_choice_takes_a_place_and_one_request_always_fits(tmp_path: Path) -> None:
    engine = ScriptedEngine([EngineOutput(ids("a"))], endless=True)
    run = generator(tmp_path, engine, max_requests=4)
    async with aclosing(run.run(replace(request(), choices=3))) as first:
        await anext(first)
        with pytest.raises(errors.UnavailableError):
            await events(run, replace(request(), choices=2))
        async with aclosing(run.run(request())) as second:
            await anext(second)
    async with aclosing(run.run(replace(request(), choices=16))) as alone:
        await anext(alone)


async def test_a_full_queue_refuses_and_says_when_to_retry(tmp_path: Path) -> None:
    run = generator(tmp_path, ScriptedEngine([EngineOutput(ids("a"))], endless=True), max_requests=1)
    async with aclosing(run.run(request())) as first:
        await anext(first)
        with pytest.raises(errors.UnavailableError) as caught:
            await events(run, request())
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.retry_after > 0


async def test_a_draining_worker_takes_nothing_new_and_ends_what_it_has(tmp_path: Path) -> None:
    engine = ScriptedEngine([EngineOutput(ids("a")), EngineOutput(ids("b"), finish=Finish.LENGTH)])
    run = generator(tmp_path, engine)
    async with aclosing(run.run(request())) as first:
        await anext(first)
        run.drain()
        with pytest.raises(errors.UnavailableError) as caught:
            await events(run, request())
        assert caught.value.reason == "DRAINING"
        assert [type(event) async for event in first] == [Chunk, Summary]
