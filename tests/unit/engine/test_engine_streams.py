"""A consumer gets everything, in order, however late it comes."""

import asyncio
import threading

import pytest

from services.worker.engine.interface import EngineOutput, EngineStoppedError, Finish, TokenLogprob
from services.worker.engine.local.output_streams import Outbox, OutputStream


def logprob(token_id: int) -> TokenLogprob:
    return TokenLogprob(token_id, -1.0, ())


async def test_what_nobody_has_taken_is_joined() -> None:
    stream = OutputStream()
    stream.put(EngineOutput((1,), (logprob(1),), cached_tokens=7))
    stream.put(EngineOutput((2,), (logprob(2),)))
    stream.put(EngineOutput((), finish=Finish.STOP))
    assert await stream.take() == EngineOutput((1, 2), (logprob(1), logprob(2)), 7, Finish.STOP)


async def test_what_is_taken_does_not_come_again() -> None:
    stream = OutputStream()
    stream.put(EngineOutput((1,)))
    assert (await stream.take()).token_ids == (1,)
    late = asyncio.create_task(stream.take())
    await asyncio.sleep(0)
    assert not late.done()
    stream.put(EngineOutput((2,)))
    assert (await late).token_ids == (2,)


async def test_an_error_comes_after_the_tokens_before_it() -> None:
    stream = OutputStream()
    stream.put(EngineOutput((1,)))
    stream.put(EngineStoppedError("over"))
    assert (await stream.take()).token_ids == (1,)
    with pytest.raises(EngineStoppedError, match="over"):
        await stream.take()


async def test_another_thread_wakes_the_consumers_of_all_streams_at_once() -> None:
    outbox = Outbox(asyncio.get_running_loop())
    streams = [OutputStream() for _ in range(3)]

    def produce() -> None:
        for place, stream in enumerate(streams):
            outbox.post(stream, EngineOutput((place,)))
        outbox.send()

    thread = threading.Thread(target=produce)
    thread.start()
    outputs = await asyncio.gather(*(stream.take() for stream in streams))
    thread.join()
    assert [output.token_ids for output in outputs] == [(0,), (1,), (2,)]


def test_a_closed_event_loop_is_no_error() -> None:
    loop = asyncio.new_event_loop()
    outbox = Outbox(loop)
    loop.close()
    outbox.post(OutputStream(), EngineOutput((1,)))
    outbox.send()
