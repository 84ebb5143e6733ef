"""Workers that fail, vanish, or outlive their clients."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest

from loramux.account.v1 import account_pb2, usage_pb2
from loramux.fleet.v1 import routing_pb2
from loramux.inference.v1 import inference_pb2, inference_pb2_grpc, sampling_pb2
from loramux.worker.v1 import worker_pb2
from services.common import errors
from tests.support.gateway import Rig, answer, eventually, refusal, rig, started
from tests.support.gateway_registry import ScriptedRegistry, deployment_route, worker_route
from tests.support.gateway_worker import (
    Event,
    ScriptedWorker,
    chunk,
    failing_after,
    obliging,
    serving_worker,
    stuck_after,
    summary,
)
from tests.support.secrets import DISPATCH_SECRET

FULL = errors.UnavailableError("QUEUE_FULL", "the queue is full", retry_after=2.0)
UNFIT = errors.InvalidFieldError("adapter_config.r", 999, "at most 64")
PAID = 5 * 20


async def nothing_is_held(r: Rig) -> None:
    await r.idle()
    assert (await r.account()).balance.reserved_pico_usd == 0


async def only_record(r: Rig) -> usage_pb2.UsageRecord:
    await nothing_is_held(r)
    (record,) = await r.usage()
    return record


def drained(worker_id: str) -> routing_pb2.RemovedWorker:
    return routing_pb2.RemovedWorker(worker_id=worker_id, reason=routing_pb2.RemovedWorker.REASON_DRAINED)


async def test_a_client_that_cancels_pays_prompt_and_tokens_produced_and_frees_everything(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, workers=[ScriptedWorker(stuck_after(3))]) as r:
        member = await r.member(limits=account_pb2.Limits(max_in_flight=1))
        call = r.call(member, max_tokens=50)
        for _ in range(3):
            await started(call)
        call.cancel()
        await r.worker.until_running(0)
        record = await only_record(r)
        assert record.outcome == usage_pb2.UsageRecord.OUTCOME_CANCELLED
        assert (record.completion_tokens, record.total_pico_usd) == (3, PAID + 3 * 60)
        await started(r.call(member))


async def test_a_client_that_cancels_before_the_first_token_pays_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path, workers=[ScriptedWorker(stuck_after(0))]) as r:
        call = r.call(await r.member())
        await r.worker.until_running(1)
        call.cancel()
        await r.worker.until_running(0)
        record = await only_record(r)
        assert (record.outcome, record.total_pico_usd) == (usage_pb2.UsageRecord.OUTCOME_CANCELLED, 0)


async def test_a_client_whose_deadline_passes_is_one_that_cancels(tmp_path: Path) -> None:
    async with rig(tmp_path, workers=[ScriptedWorker(stuck_after(1))]) as r:
        member = await r.member()
        request = inference_pb2.GenerateRequest(
            model="tiny", text="hello", sampling=sampling_pb2.SamplingParams(max_tokens=9)
        )
        call = r.inference.Generate(request, metadata=member.metadata, timeout=0.3)
        await started(call)
        assert (await refusal(call)).code is grpc.StatusCode.DEADLINE_EXCEEDED
        await r.worker.until_running(0)
        assert (await only_record(r)).total_pico_usd == PAID + 60


async def test_a_client_that_vanishes_with_its_connection_is_one_that_cancels(tmp_path: Path) -> None:
    async with rig(tmp_path, workers=[ScriptedWorker(stuck_after(2))]) as r:
        member = await r.member()
        async with grpc.aio.insecure_channel(r.gateway.server.address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            request = inference_pb2.GenerateRequest(model="tiny", text="hello")
            call = stub.Generate(request, metadata=member.metadata)
            for _ in range(2):
                await started(call)
        await r.worker.until_running(0)
        assert (await only_record(r)).total_pico_usd == PAID + 2 * 60


async def test_a_workers_own_status_reaches_the_client_with_all_its_details(tmp_path: Path) -> None:
    registry = ScriptedRegistry(deployments=[deployment_route("acme/pirate")])
    async with rig(tmp_path, registry=registry, workers=[ScriptedWorker(failing_after(0, UNFIT))]) as r:
        error = await refusal(r.call(await r.member(), "acme/pirate"))
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert error.metadata == UNFIT.metadata
        assert error.field_violations[0].field == "adapter_config.r"
        record = await only_record(r)
        assert (record.outcome, record.total_pico_usd) == (usage_pb2.UsageRecord.OUTCOME_FAILED, 0)


async def test_our_error_mid_stream_costs_nothing_and_is_recorded(tmp_path: Path) -> None:
    async with rig(tmp_path, workers=[ScriptedWorker(failing_after(3, FULL))]) as r:
        error = await refusal(r.call(await r.member()))
        assert (error.reason, error.retry_after) == ("QUEUE_FULL", 2.0)
        record = await only_record(r)
        assert (record.outcome, record.completion_tokens, record.total_pico_usd) == (
            usage_pb2.UsageRecord.OUTCOME_FAILED,
            3,
            0,
        )


async def test_a_workers_defect_shows_nothing_of_itself(tmp_path: Path) -> None:
    defect = RuntimeError("CUDA out of memory at /opt/secret/path")
    async with rig(tmp_path, workers=[ScriptedWorker(failing_after(1, defect))]) as r:
        error = await refusal(r.call(await r.member()))
        assert error.code is grpc.StatusCode.INTERNAL
        assert "secret" not in error.message
        record = await only_record(r)
        assert record.request_id in error.message


async def test_a_stream_that_ends_without_a_summary_is_a_defect(tmp_path: Path) -> None:
    async def script(request: worker_pb2.GenerateRequest) -> AsyncIterator[Event]:
        yield chunk()

    async with rig(tmp_path, workers=[ScriptedWorker(script)]) as r:
        assert (await refusal(r.call(await r.member()))).code is grpc.StatusCode.INTERNAL
        assert (await only_record(r)).total_pico_usd == 0


async def test_a_wrong_internal_secret_is_not_blamed_on_the_client(tmp_path: Path) -> None:
    stranger = ScriptedWorker()
    async with serving_worker(stranger, "another secret of at least 32 characters"):
        registry = ScriptedRegistry(workers=[worker_route("stranger", stranger.address)])
        async with rig(tmp_path, registry=registry, workers=[]) as r:
            error = await refusal(r.call(await r.member()))
            assert error.code is grpc.StatusCode.INTERNAL
            assert "secret" not in error.message


async def test_a_request_that_a_worker_refuses_before_its_first_chunk_is_moved_once(tmp_path: Path) -> None:
    refusing, willing = ScriptedWorker(failing_after(0, FULL)), ScriptedWorker()
    async with rig(tmp_path, workers=[refusing, willing]) as r:
        got = await answer(r.call(await r.member()))
        assert got.tokens == 4
        assert (len(refusing.requests), len(willing.requests)) == (1, 1)
        assert len(await r.usage()) == 1
        assert (await r.account()).balance.available_pico_usd == 1_000_000 - 340


async def test_a_request_is_moved_no_further_than_once(tmp_path: Path) -> None:
    workers = [ScriptedWorker(failing_after(0, FULL)) for _ in range(3)]
    async with rig(tmp_path, workers=workers) as r:
        assert (await refusal(r.call(await r.member()))).reason == "QUEUE_FULL"
        assert sum(len(worker.requests) for worker in workers) == 2
        assert (await only_record(r)).outcome == usage_pb2.UsageRecord.OUTCOME_FAILED


async def test_a_request_is_not_moved_once_it_has_begun_or_when_it_is_at_fault(tmp_path: Path) -> None:
    for place, first in enumerate((failing_after(1, FULL), failing_after(0, UNFIT))):
        folder = tmp_path / str(place)
        folder.mkdir()
        workers = [ScriptedWorker(first), ScriptedWorker()]
        async with rig(folder, workers=workers) as r:
            await refusal(r.call(await r.member()))
            assert workers[1].requests == []


async def test_a_worker_that_is_not_there_is_stepped_over(tmp_path: Path) -> None:
    registry = ScriptedRegistry(workers=[worker_route("a-dead-one", "127.0.0.1:1")])
    async with rig(tmp_path, registry=registry) as r:
        assert (await answer(r.call(await r.member()))).tokens == 4


async def test_without_another_worker_the_client_is_told_to_come_back(tmp_path: Path) -> None:
    registry = ScriptedRegistry(workers=[worker_route("a-dead-one", "127.0.0.1:1")])
    async with rig(tmp_path, registry=registry, workers=[]) as r:
        error = await refusal(r.call(await r.member()))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
        assert error.retry_after is not None


async def test_an_abort_before_the_first_message_is_retried_by_a_clients_own_policy(tmp_path: Path) -> None:
    tries = 0

    async def script(request: worker_pb2.GenerateRequest) -> AsyncIterator[Event]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise FULL
        yield chunk()
        yield summary(request, 1)

    policy = {
        "maxAttempts": 4,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    async with rig(tmp_path, workers=[ScriptedWorker(script)]) as r:
        member = await r.member()
        options = [("grpc.service_config", json.dumps(config))]
        async with grpc.aio.insecure_channel(r.gateway.server.address, options=options) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            request = inference_pb2.GenerateRequest(model="tiny", text="hello")
            got = await answer(stub.Generate(request, metadata=member.metadata))
        assert (got.tokens, tries) == (1, 3)
        await nothing_is_held(r)
        outcomes = [record.outcome for record in await r.usage()]
        assert outcomes.count(usage_pb2.UsageRecord.OUTCOME_FAILED) == 2
        assert outcomes.count(usage_pb2.UsageRecord.OUTCOME_COMPLETED) == 1


async def test_a_worker_that_leaves_the_fleet_finishes_what_it_has(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def script(request: worker_pb2.GenerateRequest) -> AsyncIterator[Event]:
        yield chunk()
        await go_on.wait()
        yield summary(request, 1)

    async with rig(tmp_path, workers=[ScriptedWorker(script)]) as r:
        member = await r.member()
        call = r.call(member)
        await started(call)
        r.registry.send(routing_pb2.WatchRoutesResponse(removed_workers=[drained("worker-0")]))

        async def has_left() -> bool:
            return (await refusal(r.call(member))).reason == "NO_WORKER"

        await eventually(has_left)
        go_on.set()
        assert (await answer(call)).completion.usage.completion_tokens == 1


@asynccontextmanager
async def mortal_worker() -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.gateway_worker", DISPATCH_SECRET, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.integration
async def test_a_worker_killed_mid_stream_ends_it_within_five_seconds_and_free_of_charge(
    tmp_path: Path,
) -> None:
    async with mortal_worker() as (process, address):
        registry = ScriptedRegistry(workers=[worker_route("mortal", address)])
        async with rig(tmp_path, registry=registry, workers=[]) as r:
            member = await r.member()
            call = r.call(member, max_tokens=50)
            for _ in range(3):
                await started(call)
            os.kill(process.pid, signal.SIGKILL)
            killed = time.monotonic()
            error = await refusal(call)
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
            assert error.retry_after is not None
            assert time.monotonic() - killed < 5
            record = await only_record(r)
            assert (record.outcome, record.completion_tokens, record.total_pico_usd) == (
                usage_pb2.UsageRecord.OUTCOME_FAILED,
                3,
                0,
            )
            # A worker that is back is used at once.
            heir = ScriptedWorker(obliging)
            async with serving_worker(heir, DISPATCH_SECRET):
                r.registry.send(
                    routing_pb2.WatchRoutesResponse(
                        workers=[worker_route("heir", heir.address)], removed_workers=[drained("mortal")]
                    )
                )

                async def answers() -> bool:
                    call = r.call(member)
                    try:
                        return (await answer(call)).tokens == 4
                    except grpc.aio.AioRpcError:
                        return False

                await eventually(answers)
