"""Streams of both clients, against a server that plays a script."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

import loramux
from loramux import errors
from services.common import errors as service_errors
from tests.support.scripted_gateway import Pushback, Script, ScriptedGateway, chunk, completion

UNAVAILABLE = service_errors.UnavailableError("NO_WORKER", "no worker is free", retry_after=2.5)
POOL_FULL = service_errors.LimitReachedError(
    "POOL_FULL", "acme/base", "200 in flight", maximum=200, retry_after=1.0
)


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as gateway:
        yield gateway


@pytest.fixture
async def client(gateway: ScriptedGateway) -> AsyncIterator[loramux.Client]:
    async with loramux.Client(gateway.target, "lmx_test") as client:
        yield client


@pytest.fixture
def sync_client(gateway: ScriptedGateway) -> Iterator[loramux.SyncClient]:
    with loramux.SyncClient(gateway.target, "lmx_test") as client:
        yield client


async def test_chunks_come_as_they_are_and_the_completion_after_them(
    gateway: ScriptedGateway, client: loramux.Client
) -> None:
    gate = threading.Event()
    gateway.on("Generate", [chunk("Arr", 7), gate, chunk("r!", 8, 9), completion()])
    stream = client.generate("acme/pirate", "hi", temperature=0)
    texts = []
    async for piece in stream:
        texts.append((piece.text, piece.token_ids))
        gate.set()  # a client that waited for the whole answer would never get here
    assert texts == [("Arr", (7,)), ("r!", (8, 9))]
    assert stream.completion.finish_reason is loramux.FinishReason.STOP
    assert stream.completion.choices[0].stop == "\n"
    assert stream.completion.usage.prompt_tokens == 3
    assert stream.completion.cost.total_pico_usd == 270_000
    assert str(stream.completion.cost.total_usd) == "2.70000E-7"
    [call] = gateway.calls
    assert call.metadata["authorization"] == "Bearer lmx_test"


def test_the_sync_client_streams_the_same(gateway: ScriptedGateway, sync_client: loramux.SyncClient) -> None:
    gate = threading.Event()
    gateway.on("Generate", [chunk("Arr", 7), gate, chunk("r!", 8), completion()])
    stream = sync_client.generate("acme/pirate", messages=[{"role": "user", "content": "hi"}])
    texts = []
    for piece in stream:
        texts.append(piece.text)
        gate.set()
    assert texts == ["Arr", "r!"]
    assert stream.completion.request_id == "r-1"


async def test_text_reads_to_the_end_and_includes_what_was_read(
    gateway: ScriptedGateway, client: loramux.Client, sync_client: loramux.SyncClient
) -> None:
    gateway.on("Generate", *[[chunk("a"), chunk("b"), completion()]] * 2)
    stream = client.generate("m", "p")
    assert await stream.text() == "ab"
    assert await stream.text() == "ab"
    assert await asyncio.to_thread(lambda: sync_client.generate("m", "p").text()) == "ab"


async def test_the_completion_is_not_there_before_the_end(
    gateway: ScriptedGateway, client: loramux.Client
) -> None:
    gateway.on("Generate", [chunk("a"), threading.Event()])
    stream = client.generate("m", "p")
    with pytest.raises(RuntimeError, match="not been read to its end"):
        _ = stream.completion
    stream.cancel()


async def test_an_error_carries_its_reason_and_details(
    gateway: ScriptedGateway, client: loramux.Client
) -> None:
    gateway.on("Generate", [POOL_FULL], [service_errors.InvalidFieldError("max_tokens", 0, "at least 1")])
    with pytest.raises(errors.LimitReachedError) as full:
        await client.generate("m", "p").text()
    assert full.value.reason == "POOL_FULL"
    assert full.value.retry_after == 1.0
    with pytest.raises(errors.InvalidArgumentError, match="max_tokens is 0; it must be at least 1") as bad:
        await client.generate("m", "p", max_tokens=0).text()
    assert bad.value.field_violations[0].field == "max_tokens"
    assert len(gateway.calls) == 2  # neither is worth repeating


async def test_an_error_in_the_middle_is_typed_and_stays(
    gateway: ScriptedGateway, client: loramux.Client
) -> None:
    gateway.on("Generate", [chunk("a"), UNAVAILABLE])
    stream = client.generate("m", "p")
    chunks = aiter(stream)
    assert (await anext(chunks)).text == "a"
    with pytest.raises(errors.UnavailableError) as caught:
        await anext(chunks)
    assert caught.value.reason == "NO_WORKER"
    with pytest.raises(errors.UnavailableError):
        await stream.text()
    assert len(gateway.calls) == 1  # what has begun to arrive is never repeated


def test_an_error_in_the_middle_of_a_sync_stream_is_typed_too(
    gateway: ScriptedGateway, sync_client: loramux.SyncClient
) -> None:
    gateway.on("Generate", [chunk("a"), UNAVAILABLE])
    stream = sync_client.generate("m", "p")
    with pytest.raises(errors.UnavailableError):
        list(stream)
    with pytest.raises(errors.UnavailableError):
        stream.text()


async def test_unavailable_before_the_first_chunk_is_tried_again(
    gateway: ScriptedGateway, client: loramux.Client, sync_client: loramux.SyncClient
) -> None:
    attempts: list[Script] = [[Pushback(UNAVAILABLE, 1)], [UNAVAILABLE], [chunk("a"), completion()]]
    gateway.on("Generate", *attempts, *attempts)
    assert await client.generate("m", "p").text() == "a"
    assert await asyncio.to_thread(lambda: sync_client.generate("m", "p").text()) == "a"
    assert len(gateway.calls) == 6


async def test_it_gives_up_after_four_attempts(gateway: ScriptedGateway, client: loramux.Client) -> None:
    gateway.on("Generate", *[[Pushback(UNAVAILABLE, 1)]] * 6)
    with pytest.raises(errors.UnavailableError) as caught:
        await client.generate("m", "p").text()
    assert caught.value.retry_after == 2.5
    assert len(gateway.calls) == 4


async def test_a_server_that_says_never_is_not_asked_again(
    gateway: ScriptedGateway, client: loramux.Client
) -> None:
    gateway.on("Generate", [Pushback(UNAVAILABLE, -1)])
    with pytest.raises(errors.UnavailableError):
        await client.generate("m", "p").text()
    assert len(gateway.calls) == 1


async def test_breaking_out_of_the_loop_cancels_the_call(
    gateway: ScriptedGateway, client: loramux.Client
) -> None:
    gateway.on("Generate", [chunk("a"), threading.Event()])
    gc.disable()  # a reference cycle would make the end of the call a matter of luck
    try:
        stream = client.generate("m", "p")
        async for _ in stream:
            break
        assert await asyncio.to_thread(gateway.calls[0].ended.wait, 10)
    finally:
        gc.enable()
    with pytest.raises(errors.CancelledError):
        await stream.text()


def test_breaking_out_of_a_sync_loop_cancels_the_call(
    gateway: ScriptedGateway, sync_client: loramux.SyncClient
) -> None:
    gateway.on("Generate", [chunk("a"), threading.Event()])
    gc.disable()
    try:
        stream = sync_client.generate("m", "p")
        for _ in stream:
            break
        assert gateway.calls[0].ended.wait(10)
    finally:
        gc.enable()
    with pytest.raises(errors.CancelledError):
        stream.text()


async def test_leaving_the_context_cancels_a_call_that_nobody_reads(
    gateway: ScriptedGateway, client: loramux.Client, sync_client: loramux.SyncClient
) -> None:
    endless: Script = [chunk("a"), threading.Event()]
    gateway.on("Generate", endless, endless)
    async with client.generate("m", "p"):
        [call] = await asyncio.to_thread(gateway.wait_for_calls, 1)
    assert await asyncio.to_thread(call.ended.wait, 10)
    with sync_client.generate("m", "p"):
        call = (await asyncio.to_thread(gateway.wait_for_calls, 2))[1]
    assert await asyncio.to_thread(call.ended.wait, 10)


async def test_cancelling_the_reading_task_cancels_the_call(
    gateway: ScriptedGateway, client: loramux.Client
) -> None:
    gateway.on("Generate", [chunk("a"), threading.Event()])
    task = asyncio.create_task(client.generate("m", "p").text())
    [call] = await asyncio.to_thread(gateway.wait_for_calls, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(call.ended.wait, 10)


async def test_cancelling_the_stream_does_not_look_like_a_cancelled_task(
    gateway: ScriptedGateway, client: loramux.Client
) -> None:
    gateway.on("Generate", [chunk("a"), threading.Event()])
    stream = client.generate("m", "p")
    task = asyncio.create_task(stream.text())
    await asyncio.to_thread(gateway.wait_for_calls, 1)
    stream.cancel()
    with pytest.raises(errors.CancelledError):
        await task
    assert not task.cancelled()


async def test_a_stream_without_a_completion_is_an_error(
    gateway: ScriptedGateway, client: loramux.Client, sync_client: loramux.SyncClient
) -> None:
    gateway.on("Generate", *[[chunk("a")]] * 2)
    with pytest.raises(errors.InternalError, match="without a completion"):
        await client.generate("m", "p").text()
    with pytest.raises(errors.InternalError, match="without a completion"):
        await asyncio.to_thread(lambda: sync_client.generate("m", "p").text())


async def test_a_deadline_ends_a_stream(gateway: ScriptedGateway, client: loramux.Client) -> None:
    gateway.on("Generate", [chunk("a"), threading.Event()])
    with pytest.raises(errors.DeadlineExceededError):
        await client.generate("m", "p", timeout=0.05).text()


async def test_logprobs_arrive_likeliest_first(gateway: ScriptedGateway, client: loramux.Client) -> None:
    response = chunk("a", 5)
    entry = response.chunk.logprobs.add(token_id=5, logprob=-0.25)
    entry.top.add(token_id=5, logprob=-0.25)
    entry.top.add(token_id=6, logprob=-2.0)
    gateway.on("Generate", [response, completion()])
    pieces = [piece async for piece in client.generate("m", "p", logprobs=2)]
    assert [(one.token_id, one.logprob) for one in pieces[0].logprobs[0].top] == [(5, -0.25), (6, -2.0)]
    assert gateway.calls[0].request.sampling.logprobs == 2


async def test_a_hundred_streams_share_one_client(gateway: ScriptedGateway, client: loramux.Client) -> None:
    gateway.on("Generate", *[lambda request: [chunk(request.text), completion()]] * 100)
    texts = await asyncio.gather(*[client.generate("m", str(one)).text() for one in range(100)])
    assert texts == [str(one) for one in range(100)]
