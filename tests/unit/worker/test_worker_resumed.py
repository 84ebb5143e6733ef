"""An answer that another worker began: its text, stop strings, counts and end are those of the whole."""

import uuid
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loramux.worker.v1 import worker_pb2
from services.common import errors
from services.worker.chunks import Choice, Chunk, Summary
from services.worker.engine.interface import EngineOutput, EngineRequest, Finish
from services.worker.generator import Request
from services.worker.text.resumed_text import Resumed
from services.worker.worker_messages import request_of
from tests.unit.worker.test_worker_generate import ScriptedEngine, events, generator, ids, request

ANSWER = "Gänse 🪿 END of it"


class GoesOn(ScriptedEngine):
    """Says the rest of a text, a token at a time, up to max_tokens."""

    def __init__(self, text: str) -> None:
        super().__init__([])
        self.text = text
        self.requests: list[EngineRequest] = []

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineOutput]:
        self.requests.append(request)
        assert tuple(request.produced) == ids(self.text)[: len(request.produced)]
        for number, token in enumerate(ids(self.text)[: request.sampling.max_tokens], 1):
            if number > len(request.produced):
                last = number == request.sampling.max_tokens
                yield EngineOutput((token,), finish=Finish.LENGTH if last else None)
        yield EngineOutput((), finish=Finish.STOP)


async def run(folder: Path, asked: Request) -> tuple[str, tuple[int, ...], Summary, GoesOn]:
    engine = GoesOn(ANSWER)
    # A folder is one worker's alone.
    *chunks, summary = await events(generator(folder / uuid.uuid4().hex, engine), asked)
    assert isinstance(summary, Summary)
    pieces = [chunk for chunk in chunks if isinstance(chunk, Chunk)]
    tokens = tuple(token for chunk in pieces for token in chunk.token_ids)
    return "".join(chunk.text for chunk in pieces), tokens, summary, engine


@pytest.mark.parametrize("stops", [(), ("END",), ("🪿 E",), ("it",), ("t",), ("nowhere",)])
@pytest.mark.parametrize("most", [4, 12, 50])
async def test_wherever_it_was_cut_text_and_counts_are_those_of_the_whole(
    tmp_path: Path, stops: tuple[str, ...], most: int
) -> None:
    asked = request(*stops)
    asked = replace(asked, sampling=replace(asked.sampling, max_tokens=most))
    text, tokens, summary, _ = await run(tmp_path, asked)
    had = [0, *(sum(len(one.encode()) for one in text[:place]) for place in range(1, len(text) + 1))]
    for cut in range(len(tokens) + 1):
        said = _said(text, tokens[:cut], stops, is_all=cut == most)
        for sent in [size for size in had if size <= len(said.encode())]:
            resumed = replace(asked, resumed={0: Resumed(tokens[:cut], sent)})
            rest, new, ended, engine = await run(tmp_path, resumed)
            assert text.encode()[:sent].decode() + rest == text
            assert tokens[:cut] + new == tokens
            assert ended == summary
            over = cut == most or (summary.choices[0].stop != "" and cut == len(tokens))
            assert len(engine.requests) == (0 if over else 1)


def _said(text: str, tokens: tuple[int, ...], stops: tuple[str, ...], *, is_all: bool) -> str:
    """What the first worker can have sent by then: all but what may become a stop string."""
    said = "".join(map(chr, tokens))
    if not is_all:
        held = max(
            (size for stop in stops for size in range(1, len(stop)) if said.endswith(stop[:size])), default=0
        )
        said = said[: len(said) - held]
    return said if len(said) < len(text) else text


async def test_each_choice_goes_on_where_it_was_and_those_that_had_ended_compute_nothing(
    tmp_path: Path,
) -> None:
    asked = replace(
        request("END"),
        choices=4,
        resumed={0: Resumed(ids("Gänse 🪿 END"), 12), 2: Resumed(ids("Gäns"), 3), 3: Resumed((), 0)},
    )
    engine = GoesOn(ANSWER)
    *chunks, summary = await events(generator(tmp_path, engine), asked)
    texts = {
        index: "".join(chunk.text for chunk in chunks if isinstance(chunk, Chunk) and chunk.choice == index)
        for index in range(4)
    }
    assert texts == {0: "", 1: "Gänse 🪿 ", 2: "nse 🪿 ", 3: "Gänse 🪿 "}
    assert isinstance(summary, Summary)
    assert [one.stop for one in summary.choices] == ["END"] * 4
    assert summary.completion_tokens == 4 * len(ids("Gänse 🪿 END"))
    assert sorted(len(one.produced) for one in engine.requests) == [0, 0, 4]
    assert {one.sampling.seed - asked.sampling.seed for one in engine.requests} == {1, 2, 3}


async def test_a_choice_that_a_stop_token_had_ended_computes_nothing_where_its_last_text_tells(
    tmp_path: Path,
) -> None:
    # `E` may begin a stop string, and is said only where nothing follows.
    ended = Resumed(ids("Gänse 🪿 E"), len("Gänse 🪿 E".encode()))
    text, tokens, summary, engine = await run(tmp_path, replace(request("END"), resumed={0: ended}))
    assert (text, tokens, engine.requests) == ("", (), [])
    assert summary.choices[0] == Choice(Finish.STOP)
    assert summary.completion_tokens == len(ids("Gänse 🪿 E"))
    # Where it was not said, the answer goes on.
    running = Resumed(ids("Gänse 🪿 E"), len("Gänse 🪿 ".encode()))
    text, tokens, summary, engine = await run(tmp_path, replace(request("END"), resumed={0: running}))
    assert (text, tokens, len(engine.requests)) == ("", ids("ND"), 1)


async def test_where_all_choices_had_ended_only_the_end_is_said(tmp_path: Path) -> None:
    whole = Resumed(ids("Gänse 🪿 END"), 12)
    text, tokens, summary, engine = await run(
        tmp_path, replace(request("END"), choices=2, resumed={0: whole, 1: whole})
    )
    assert (text, tokens, engine.requests) == ("", (), [])
    assert [one.finish for one in summary.choices] == [Finish.STOP, Finish.STOP]


@pytest.mark.parametrize("sent", [2, 6, 1_000])
async def test_bytes_that_the_client_cannot_have_are_refused(tmp_path: Path, sent: int) -> None:
    # The second byte is half of a character; there are five in all.
    with pytest.raises(errors.InvalidFieldError) as caught:
        await run(tmp_path, replace(request(), resumed={0: Resumed(ids("Gäns"), sent)}))
    assert caught.value.field == "resumed.text_bytes_sent"
    assert str(sent) in str(caught.value)


@pytest.mark.parametrize(
    ("resumed", "field"),
    [
        ([{"index": 2}], "resumed[0].index"),
        ([{"index": -1}], "resumed[0].index"),
        ([{"index": 1}, {"index": 1}], "resumed[1].index"),
        ([{"index": 0, "token_ids": [1, 2, 3, 4]}], "resumed[0].token_ids"),
        ([{"index": 0, "text_bytes_sent": -1}], "resumed[0].text_bytes_sent"),
    ],
)
def test_what_no_worker_can_have_produced_is_refused_by_its_field(
    resumed: list[dict[str, Any]], field: str
) -> None:
    message = worker_pb2.GenerateRequest(
        prompt_token_ids=[1],
        sampling=worker_pb2.Sampling(max_tokens=3, n=2),
        resumed=[worker_pb2.ResumedChoice(**one) for one in resumed],
    )
    with pytest.raises(errors.InvalidFieldError) as caught:
        request_of(message)
    assert caught.value.field == field


def test_what_was_produced_comes_through_the_message() -> None:
    message = worker_pb2.GenerateRequest(
        prompt_token_ids=[1],
        sampling=worker_pb2.Sampling(max_tokens=3, n=2),
        resumed=[worker_pb2.ResumedChoice(index=1, token_ids=[5, 6, 7], text_bytes_sent=4)],
    )
    assert request_of(message).resumed == {1: Resumed((5, 6, 7), 4)}
