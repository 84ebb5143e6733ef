"""The gateway as a process: started, drained, killed, and two of them on one database."""

import asyncio
import json
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest
import sqlalchemy as sa
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy.ext.asyncio import create_async_engine

from loramux.account.v1 import account_pb2, account_pb2_grpc, usage_pb2
from loramux.inference.v1 import inference_pb2, inference_pb2_grpc, sampling_pb2
from services.gateway.accounts.keys import hash_of
from services.gateway.storage import tables
from tests.support.gateway import (
    OPERATOR,
    OPERATOR_KEY,
    Call,
    answer,
    bearer,
    eventually,
    rig,
    started,
)
from tests.support.gateway_registry import ScriptedRegistry, serving_registry, worker_route
from tests.support.gateway_worker import Script, ScriptedWorker, obliging, serving_worker, stuck_after
from tests.support.secrets import DISPATCH_SECRET, GATEWAY_SECRET

pytestmark = pytest.mark.integration


@dataclass
class Process:
    process: asyncio.subprocess.Process
    channel: grpc.aio.Channel
    lines: list[str]
    """What it has printed."""
    reading: "asyncio.Task[None]"

    @property
    def accounts(self) -> "account_pb2_grpc.AccountServiceAsyncStub":
        return account_pb2_grpc.AccountServiceStub(self.channel)

    def generate(self, metadata: tuple[tuple[str, str], ...], max_tokens: int = 50) -> Call:
        request = inference_pb2.GenerateRequest(
            model="tiny", text="hello", sampling=sampling_pb2.SamplingParams(max_tokens=max_tokens)
        )
        return inference_pb2_grpc.InferenceServiceStub(self.channel).Generate(request, metadata=metadata)

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        status = await asyncio.wait_for(self.process.wait(), 30)
        await self.reading
        return status


@asynccontextmanager
async def gateway_process(folder: Path, registry: str) -> AsyncIterator[Process]:
    """Started with variables alone, as `loramux up` does."""
    address_file = folder / f"address-{uuid.uuid4().hex}"
    environment = {
        "LORAMUX_GATEWAY_REGISTRY_ADDRESS": registry,
        "LORAMUX_GATEWAY_DATABASE_URL": f"sqlite+aiosqlite:///{folder}/gateway.db",
        "LORAMUX_GATEWAY_OPERATOR_KEY_SHA256": hash_of(OPERATOR_KEY),
        "LORAMUX_GATEWAY_GATEWAY_SECRET": GATEWAY_SECRET,
        "LORAMUX_GATEWAY_DISPATCH_SECRET": DISPATCH_SECRET,
        "LORAMUX_GATEWAY_ADDRESS_FILE": str(address_file),
        "LORAMUX_GATEWAY_DRAIN_SECONDS": "20",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.gateway", env=environment, stdout=asyncio.subprocess.PIPE
    )
    lines: list[str] = []
    ready = asyncio.Event()

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            lines.append(line.decode())
            if json.loads(line)["event"] == "serving":
                ready.set()
        ready.set()

    reading = asyncio.create_task(read())
    try:
        await asyncio.wait_for(ready.wait(), 60)
        async with grpc.aio.insecure_channel(read_text(address_file)) as channel:
            yield Process(process, channel, lines, reading)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await reading


def read_text(file: Path) -> str:
    return file.read_text()


@asynccontextmanager
async def fleet(script: Script) -> AsyncIterator[tuple[ScriptedWorker, str]]:
    async with AsyncExitStack() as stack:
        worker = ScriptedWorker(script)
        await stack.enter_async_context(serving_worker(worker, DISPATCH_SECRET))
        registry = ScriptedRegistry(workers=[worker_route("w", worker.address)])
        registry.speaks.set()
        yield worker, await stack.enter_async_context(serving_registry(registry, GATEWAY_SECRET))


async def open_account(gateway: Process) -> tuple[tuple[str, str], ...]:
    create = account_pb2.CreateAccountRequest(account_id="acme", credit_pico_usd=10**6)
    await gateway.accounts.CreateAccount(create, metadata=OPERATOR)
    request = account_pb2.CreateKeyRequest(account="acme")
    return bearer((await gateway.accounts.CreateKey(request, metadata=OPERATOR)).secret)


async def test_sigterm_lets_running_streams_end_and_exits_with_0(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def script(request: object) -> AsyncIterator[object]:
        async for event in obliging(request):  # type: ignore[arg-type]  # passed on as it came
            yield event
            await go_on.wait()

    async with fleet(script) as (_, registry), gateway_process(tmp_path, registry) as gateway:  # type: ignore[arg-type]  # as above
        metadata = await open_account(gateway)
        call = gateway.generate(metadata, max_tokens=4)
        await started(call)
        health = health_pb2_grpc.HealthStub(gateway.channel)
        watch = health.Watch(  # type: ignore[attr-defined]  # missing in its stubs
            health_pb2.HealthCheckRequest(service="")
        )
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        gateway.process.send_signal(signal.SIGTERM)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        go_on.set()
        assert (await answer(call)).completion.usage.completion_tokens == 4
        assert await asyncio.wait_for(gateway.process.wait(), 30) == 0
        await gateway.reading
        events = [json.loads(line) for line in gateway.lines]
        (ended,) = [event for event in events if event["event"] == "request_ended"]
        assert (ended["account"], ended["outcome"], ended["service"]) == ("acme", "completed", "gateway")
        assert ended["request_id"]
        assert metadata[0][1] not in "".join(gateway.lines)


async def test_a_killed_gateways_requests_are_settled_at_their_last_checkpoint_by_the_next(
    tmp_path: Path,
) -> None:
    async with fleet(stuck_after(3)) as (worker, registry):
        async with gateway_process(tmp_path, registry) as gateway:
            metadata = await open_account(gateway)
            with_checkpoint = gateway.generate(metadata)
            for _ in range(3):
                await started(with_checkpoint)
            await eventually(lambda: has_a_checkpoint(tmp_path))
            worker.script = stuck_after(2)
            without = gateway.generate(metadata)
            for _ in range(2):
                await started(without)
            await gateway.end(signal.SIGKILL)
        # Both are older than a lease: as if the next start came later.
        await age_checkpoints(tmp_path)
        async with gateway_process(tmp_path, registry) as gateway:

            async def everything_is_closed() -> bool:
                got = await gateway.accounts.GetAccount(account_pb2.GetAccountRequest(), metadata=metadata)
                return got.account.balance.reserved_pico_usd == 0

            await eventually(everything_is_closed)
            listed = await gateway.accounts.ListUsage(account_pb2.ListUsageRequest(), metadata=metadata)
            ends = {record.completion_tokens: record for record in listed.records}
            assert ends[3].outcome == usage_pb2.UsageRecord.OUTCOME_CANCELLED
            assert ends[3].total_pico_usd == 5 * 20 + 3 * 60
            assert ends[0].outcome == usage_pb2.UsageRecord.OUTCOME_FAILED
            assert ends[0].total_pico_usd == 0
            # The worker was told, too: it runs nothing for the dead.
            await worker.until_running(0)


async def has_a_checkpoint(folder: Path) -> bool:
    return any(
        tokens == 3 for tokens in await execute(folder, sa.select(tables.open_requests.c.completion_tokens))
    )


async def age_checkpoints(folder: Path) -> None:
    opened = tables.open_requests
    hour = 3600 * 10**6
    statement = sa.text(f"UPDATE {opened.name} SET checkpoint_time = checkpoint_time - {hour}")
    await execute(folder, statement)


async def execute(folder: Path, statement: sa.Executable) -> list[object]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/gateway.db")
    async with engine.begin() as connection:
        result = await connection.execute(statement)
        found = [row[0] for row in result] if result.returns_rows else []
    await engine.dispose()
    return found


async def test_a_key_revoked_at_one_gateway_is_soon_refused_by_another(tmp_path: Path) -> None:
    async with (
        fleet(obliging) as (_, registry),
        gateway_process(tmp_path, registry) as one,
        gateway_process(tmp_path, registry) as other,
    ):
        metadata = await open_account(one)
        for gateway in (one, other):
            await answer(gateway.generate(metadata, max_tokens=1))
        keys = await one.accounts.ListKeys(account_pb2.ListKeysRequest(), metadata=metadata)
        await one.accounts.RevokeKey(account_pb2.RevokeKeyRequest(name=keys.keys[0].name), metadata=OPERATOR)
        assert await is_refused(one, metadata)
        await eventually(lambda: is_refused(other, metadata))


async def is_refused(gateway: Process, metadata: tuple[tuple[str, str], ...]) -> bool:
    try:
        await gateway.accounts.GetAccount(account_pb2.GetAccountRequest(), metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.UNAUTHENTICATED
    return False


async def test_settings_that_make_no_sense_end_the_start_with_their_names(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.gateway",
        env={"LORAMUX_GATEWAY_OPERATOR_KEY_SHA256": "not a hash"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, printed = await process.communicate()
    assert process.returncode == 2
    for named in (
        "OPERATOR_KEY_SHA256",
        "DATABASE_URL",
        "REGISTRY_ADDRESS",
        "GATEWAY_SECRET",
        "DISPATCH_SECRET",
    ):
        assert f"LORAMUX_GATEWAY_{named}" in printed.decode()


async def test_what_a_stop_cuts_after_its_drain_is_ours_and_costs_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path, workers=[ScriptedWorker(stuck_after(2))]) as r:
        call = r.call(await r.member())
        for _ in range(2):
            await started(call)
        await r.gateway.while_draining()
        await r.gateway.server.stop()
        await r.idle()
        statement = sa.select(
            tables.usage.c.outcome + sa.literal(" ") + sa.cast(tables.usage.c.total, sa.Text)
        )
        assert await execute(tmp_path, statement) == ["failed 0"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
