"""What a worker says, what a newer one says, and workers that the registry calls lost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio

from loramux.account.v1 import usage_pb2
from loramux.fleet.v1 import routing_pb2
from loramux.worker.v1 import worker_pb2
from services.common import errors
from tests.support.gateway import answer, eventually, refusal, rig, started
from tests.support.gateway_worker import (
    Event,
    ScriptedWorker,
    chunk,
    stuck_after,
    summary,
)

FULL = errors.UnavailableError("QUEUE_FULL", "the queue is full", retry_after=2.0)
UNFIT = errors.InvalidFieldError("adapter_config.r", 999, "at most 64")
PAID = 5 * 20


async def test_what_runs_on_a_worker_that_was_lost_is_cut_at_once_and_costs_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path, workers=[ScriptedWorker(stuck_after(1))]) as r:
        call = r.call(await r.member())
        await started(call)
        lost = routing_pb2.RemovedWorker(worker_id="worker-0", reason=routing_pb2.RemovedWorker.REASON_LOST)
        r.registry.send(routing_pb2.WatchRoutesResponse(removed_workers=[lost]))
        error = await refusal(call)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
        await r.idle()
        (record,) = await r.usage()
        assert (record.total_pico_usd, record.worker_id) == (0, "worker-0")


async def test_a_newer_worker_is_understood_as_far_as_this_gateway_knows(tmp_path: Path) -> None:
    """Events, fields and numbers of a later release: the answer arrives, and is charged as any other."""

    async def newer(request: worker_pb2.GenerateRequest) -> AsyncIterator[Event]:
        yield worker_pb2.GenerateResponse.FromString(b"\xa2\x06\x02hi")  # event 100
        yield worker_pb2.Started(prompt_tokens=5, cached_tokens=2)
        for _ in range(4):
            later = worker_pb2.Chunk.FromString(chunk().SerializeToString() + b"\xa2\x06\x02hi")
            yield later
        whole = summary(request, 4, cached=2)
        whole.choices[0].finish_reason = 99
        yield worker_pb2.Summary.FromString(whole.SerializeToString() + b"\xa2\x06\x02hi")
        yield worker_pb2.GenerateResponse.FromString(b"\xaa\x06\x02hi")  # event 101, after the end

    async with rig(tmp_path, workers=[ScriptedWorker(newer)]) as r:
        got = await answer(r.call(await r.member()))
        assert (got.text, got.tokens) == ("xxxx", 4)
        assert int(got.completion.choices[0].finish_reason) == 99
        assert got.completion.cost.total_pico_usd == 5 * 20 + 4 * 60
        (record,) = await r.usage()
        assert [int(number) for number in record.finish_reasons] == [99]
        assert (record.total_pico_usd, record.cached_tokens) == (5 * 20 + 4 * 60, 2)
        assert record.outcome == usage_pb2.UsageRecord.OUTCOME_COMPLETED
        assert (await r.account()).balance.available_pico_usd == 1_000_000 - 340


async def test_a_prompt_that_was_computed_is_paid_by_who_leaves_before_its_first_token(
    tmp_path: Path,
) -> None:
    computed = asyncio.Event()

    async def slow(request: worker_pb2.GenerateRequest) -> AsyncIterator[Event]:
        yield worker_pb2.Started(prompt_tokens=5)
        computed.set()
        await asyncio.Event().wait()

    async with rig(tmp_path, workers=[ScriptedWorker(slow)]) as r:
        call = r.call(await r.member())
        await computed.wait()

        async def is_noted() -> bool:
            live = list(r.gateway.admissions._live.values())
            return bool(live) and live[0].is_prompt_computed

        await eventually(is_noted)
        call.cancel()
        await r.idle()
        (record,) = await r.usage()
        assert (record.total_pico_usd, record.outcome) == (5 * 20, usage_pb2.UsageRecord.OUTCOME_CANCELLED)
