"""Many requests at once that end in every way there is: nothing leaks, every pico-USD is accounted for."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from loramux.account.v1 import account_pb2
from loramux.worker.v1 import worker_pb2
from services.common import errors
from services.gateway.storage import tables
from tests.support.gateway import Member, Rig, answer, eventually, refusal, rig, started
from tests.support.gateway_registry import ScriptedRegistry, deployment_route
from tests.support.gateway_worker import Event, ScriptedWorker, chunk, stuck_after, summary

REQUESTS = 200
IN_FLIGHT = 40
CREDIT = 10**9


def whimsical(generator: random.Random) -> ScriptedWorker:
    """Refuses some, fails some half-way, answers the rest in its own time."""

    async def script(request: worker_pb2.GenerateRequest) -> AsyncIterator[Event]:
        if generator.random() < 0.1:
            raise errors.UnavailableError("QUEUE_FULL", "full", retry_after=0.1)
        breaks_at = generator.randrange(5) if generator.random() < 0.1 else None
        produced = 0
        while produced < request.sampling.max_tokens:
            if produced == breaks_at:
                raise RuntimeError("a defect")
            await asyncio.sleep(generator.random() * 0.01)
            tokens = min(generator.randint(1, 3), request.sampling.max_tokens - produced)
            produced += tokens
            yield chunk(tokens=tokens)
        yield summary(request, produced)

    return ScriptedWorker(script)


async def one(r: Rig, member: Member, generator: random.Random) -> str:
    model = generator.choice(["tiny", "acme/one", "acme/two"])
    call = r.call(member, model, text="x" * generator.randint(1, 20), max_tokens=generator.randint(1, 20))
    if generator.random() < 0.5:
        asyncio.get_running_loop().call_later(generator.random() * 0.3, call.cancel)
    try:
        await answer(call)
    except asyncio.CancelledError:
        return "CANCELLED"
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def accounts_for_everything(url: str) -> None:
    """The ledger's invariants, read from the database itself."""
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        ledger = list(await connection.execute(sa.select(tables.ledger)))
        usage = list(await connection.execute(sa.select(tables.usage)))
        (balance,) = await connection.execute(sa.select(tables.balances))
        still_open = list(await connection.execute(sa.select(tables.open_requests)))
    await engine.dispose()
    reserves = [row.id for row in ledger if row.kind == "reserve"]
    closes = [row for row in ledger if row.kind in ("settle", "void")]
    assert still_open == []
    assert sorted(row.closes for row in closes) == sorted(reserves)
    assert sorted(row.reference for row in closes) == sorted(row.request_id for row in usage)
    assert balance.reserved == 0
    assert balance.granted == CREDIT
    assert balance.settled == sum(row.amount for row in closes) == sum(row.total for row in usage)
    for row in usage:
        spent = row.prompt_price * row.prompt_tokens + row.completion_price * row.completion_tokens
        assert row.total == (spent if row.charged else 0)
        assert row.charged == (row.outcome != "failed" and row.completion_tokens > 0)


@pytest.mark.integration
@pytest.mark.parametrize("seed", range(2))
async def test_two_hundred_randomly_cancelled_requests_leave_nothing_behind(
    tmp_path: Path, seed: int
) -> None:
    generator = random.Random(seed)
    registry = ScriptedRegistry(
        deployments=[
            deployment_route("acme/one", digest="1" * 64),
            deployment_route("acme/two", digest="2" * 64),
        ]
    )
    workers = [whimsical(generator) for _ in range(2)]
    async with rig(tmp_path, registry=registry, workers=workers) as r:
        member = await r.member(credit=CREDIT, limits=account_pb2.Limits(max_in_flight=IN_FLIGHT))
        before = len(asyncio.all_tasks())
        ends = Counter(await asyncio.gather(*[one(r, member, generator) for _ in range(REQUESTS)]))
        assert set(ends) <= {"OK", "CANCELLED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL"}
        assert min(ends["OK"], ends["CANCELLED"], ends["RESOURCE_EXHAUSTED"]) > 0
        for worker in workers:
            await worker.until_running(0)
        await r.idle()
        await accounts_for_everything(r.settings.database_url)

        async def no_task_is_left() -> bool:
            return len(asyncio.all_tasks()) <= before

        await eventually(no_task_is_left)
        # Every place is free again: as many as the pools hold get in at once, and not one more.
        for worker in workers:
            worker.script = stuck_after(1)
        for model in ("tiny", "acme/one"):
            held = [r.call(member, model) for _ in range(IN_FLIGHT)]
            await asyncio.gather(*[started(call) for call in held])
            assert (await refusal(r.call(member, model))).reason == "POOL_FULL"
