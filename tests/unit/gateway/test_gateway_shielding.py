"""Work that outlives the cancellation of who waits for it."""

import asyncio

import pytest

from services.common.shielding import to_the_end


async def test_its_result_is_returned() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await to_the_end(work()) == 7


async def test_its_error_is_raised() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    with pytest.raises(KeyError):
        await to_the_end(work())


@pytest.mark.parametrize("fails", [False, True])
async def test_it_is_done_before_any_number_of_cancellations_takes_effect(fails: bool) -> None:
    began, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        await go_on.wait()
        done.set()
        if fails:
            raise KeyError("x")

    task = asyncio.create_task(to_the_end(work()))
    await began.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()
