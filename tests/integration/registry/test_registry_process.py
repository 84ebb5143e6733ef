"""The registry as a process: its fleet, its restarts, its secrets, and how it starts and ends."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import pytest

from loramux import errors as sdk
from loramux.deployment.v1 import deployment_pb2 as pb
from loramux.fleet.v1 import fleet_pb2, routing_pb2
from loramux.localhub import LocalHub, running
from services.common.rpc_types import RpcContext
from tests.support.models import write_random_adapter, write_tiny_base
from tests.support.registry import (
    BASE,
    HUB_ID,
    Registry,
    adapter_files,
    base_list,
    leased,
    running_registry,
    running_worker,
    write_base,
)

REPO = "acme/adapter"
TOKEN = "hf_alices_secret_token"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    hub = LocalHub(tmp_path / "hub")
    hub.add_token(TOKEN, "alice")
    hub.add_repo(REPO, adapter_files())
    yield hub
    hub.close()


@pytest.fixture
async def endpoint(hub: LocalHub) -> AsyncIterator[str]:
    async with running(hub) as endpoint:
        yield endpoint


async def test_a_restart_takes_up_what_was_under_way(tmp_path: Path, hub: LocalHub, endpoint: str) -> None:
    loading = asyncio.Event()

    async def hang(_ref: fleet_pb2.AdapterRef, _context: RpcContext) -> None:
        loading.set()
        await asyncio.Event().wait()

    async with running_registry(tmp_path, endpoint) as registry:
        async with running_worker(registry, hang):
            made = await registry.create("pirate", REPO)
            await loading.wait()
        checked = await registry.until_state("acme/pirate", pb.Deployment.STATE_DEPLOYING)
        registry.process.kill()
        await registry.process.wait()
    hub.fault = lambda _request: pytest.fail("what was admitted is not checked again")
    async with running_registry(tmp_path, endpoint) as registry, running_worker(registry):
        done = await registry.until_state("acme/pirate", pb.Deployment.STATE_RUNNING)
    assert (done.uid, done.serving) == (made.uid, checked.serving)


async def test_a_restart_in_the_middle_of_an_update_finishes_it(
    tmp_path: Path, hub: LocalHub, endpoint: str
) -> None:
    hub.add_repo("acme/better", adapter_files(None, None))
    async with running_registry(tmp_path, endpoint) as registry:
        async with running_worker(registry):
            await registry.create("pirate", REPO)
            await registry.until_state("acme/pirate", pb.Deployment.STATE_RUNNING)
        await registry.deployments.UpdateDeployment(
            pb.UpdateDeploymentRequest(name="acme/pirate", hub_repo="acme/better"),
            metadata=registry.account(),
        )
        await registry.until("acme/pirate", lambda one: one.candidate.digest != "")
    async with running_registry(tmp_path, endpoint) as registry, running_worker(registry):
        done = (await registry.until("acme/pirate", lambda one: not one.HasField("candidate")))[-1]
    assert (done.state, done.serving.hub_repo) == (pb.Deployment.STATE_RUNNING, "acme/better")


async def test_a_gateway_hears_of_workers_and_deployments_as_they_come_and_go(
    tmp_path: Path, endpoint: str
) -> None:
    async with running_registry(tmp_path, endpoint) as registry:
        routes = aiter(registry.routes())
        snapshot = await anext(routes)
        assert snapshot.snapshot
        assert [one.base_model.name for one in snapshot.base_models] == [BASE]
        async with running_worker(registry, worker_id="w1"):
            async for update in routes:
                if [one.registration.worker_id for one in update.workers] == ["w1"]:
                    break
            made = await registry.create("pirate", REPO)
            async for update in routes:
                if any(one.state == pb.Deployment.STATE_RUNNING for one in update.deployments):
                    break
            (route,) = update.deployments
            assert (route.name, route.uid, route.account) == ("acme/pirate", made.uid, "acme")
            assert (route.adapter.hub_repo, route.adapter.deployment_uid) == (REPO, "")
        async for update in routes:
            if update.removed_workers:
                break
        assert list(update.removed_workers) == [
            routing_pb2.RemovedWorker(worker_id="w1", reason=routing_pb2.RemovedWorker.REASON_LOST)
        ]
        await registry.deployments.DeleteDeployment(
            pb.DeleteDeploymentRequest(name="acme/pirate"), metadata=registry.account()
        )
        async for update in routes:
            if update.removed_deployments:
                break
        assert list(update.removed_deployments) == [made.uid]


async def test_a_registry_that_comes_back_hands_out_the_workers_it_knew(
    tmp_path: Path, endpoint: str
) -> None:
    async def snapshot(registry: Registry) -> routing_pb2.WatchRoutesResponse:
        call = registry.routes()
        message: routing_pb2.WatchRoutesResponse = await anext(aiter(call))
        call.cancel()
        return message

    async with (
        running_registry(tmp_path, endpoint) as registry,
        leased(registry, worker_id="w1", address="127.0.0.1:1"),
    ):
        registry.process.terminate()
        await registry.process.wait()
    async with running_registry(tmp_path, endpoint) as registry:
        assert [one.registration.worker_id for one in (await snapshot(registry)).workers] == ["w1"]


class TestRegistration:
    async def refusal(self, registry: Registry, message: fleet_pb2.RegisterRequest) -> sdk.LoramuxError:
        call = registry.fleet.Register(metadata=registry.workers.metadata(), timeout=30)
        await call.write(message)
        status = (await call.code(), await call.initial_metadata(), await call.trailing_metadata())
        return sdk.from_rpc_error(grpc.aio.AioRpcError(*status, details=await call.details()))

    async def test_what_does_not_fit_is_refused(self, tmp_path: Path, endpoint: str) -> None:
        async with running_registry(tmp_path, endpoint) as registry:
            good = fleet_pb2.WorkerRegistration(
                worker_id="w1", address="h:1", base_model=BASE, base_commit="other", max_sequences=1
            )
            wrong_commit = await self.refusal(registry, fleet_pb2.RegisterRequest(registration=good))
            assert wrong_commit.reason == "BASE_COMMIT_MISMATCH"
            good.base_model = "nope"
            unknown = await self.refusal(registry, fleet_pb2.RegisterRequest(registration=good))
            assert BASE in unknown.message
            report = fleet_pb2.RegisterRequest(report=fleet_pb2.WorkerReport())
            assert isinstance(await self.refusal(registry, report), sdk.InvalidArgumentError)

    async def test_what_a_newer_worker_says_is_passed_over(self, tmp_path: Path, endpoint: str) -> None:
        async with (
            running_registry(tmp_path, endpoint) as registry,
            leased(registry, worker_id="w1", address="h:1") as lease,
        ):
            unknown = fleet_pb2.RegisterRequest.FromString(b"\x9a\x06\x03new")
            assert unknown.WhichOneof("message") is None
            await lease.write(unknown)
            await lease.write(fleet_pb2.RegisterRequest(report=fleet_pb2.WorkerReport(running_sequences=7)))
            async for update in registry.routes():
                if any(one.report.running_sequences == 7 for one in update.workers):
                    break
            assert not lease.done()

    async def test_a_second_stream_of_one_worker_takes_over(self, tmp_path: Path, endpoint: str) -> None:
        async with (
            running_registry(tmp_path, endpoint) as registry,
            leased(registry, worker_id="w1", address="h:1") as first,
            leased(registry, worker_id="w1", address="h:2"),
        ):
            assert await first.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_tokenizer_arrives_in_pieces_below_the_message_limit(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base")
    large = json.dumps({"model": {"type": "BPE", "padding": "x" * 3_000_000}}).encode()
    (folder / "tokenizer.json").write_bytes(large)
    (tmp_path / "bases.toml").write_text(base_list(folder))
    async with running_registry(tmp_path, "http://127.0.0.1:9") as registry:
        pieces = [
            piece
            async for piece in registry.routing.GetTokenizer(
                routing_pb2.GetTokenizerRequest(base_model=BASE), metadata=registry.gateways.metadata()
            )
        ]
    assert b"".join(piece.tokenizer_json for piece in pieces) == large
    assert max(len(piece.tokenizer_json) for piece in pieces) <= 1024**2
    assert dict(pieces[0].special_tokens) == {"bos_token": "<s>", "eos_token": "</s>"}
    assert pieces[0].chat_template == "{{ messages }}"
    assert pieces[0].commit.startswith("sha256:")


async def test_an_adapter_that_peft_wrote_for_a_base_that_transformers_wrote_is_admitted(
    tmp_path: Path, hub: LocalHub, endpoint: str
) -> None:
    folder = await asyncio.to_thread(write_tiny_base, tmp_path / "real-base")
    adapter = await asyncio.to_thread(write_random_adapter, tmp_path / "adapter", folder, rank=4)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = HUB_ID
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    hub.add_repo("acme/real", adapter)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    (tmp_path / "bases.toml").write_text(base_list(folder, target_modules=modules))
    async with running_registry(tmp_path, endpoint) as registry, running_worker(registry):
        await registry.create("real", "acme/real")
        done = (
            await registry.until(
                "acme/real",
                lambda one: one.state in (pb.Deployment.STATE_RUNNING, pb.Deployment.STATE_FAILED),
            )
        )[-1]
    assert done.failure.message == ""
    assert (done.serving.rank, sorted(done.serving.target_modules)) == (4, sorted(modules))


async def test_it_drains_at_once_though_streams_are_open(tmp_path: Path, endpoint: str) -> None:
    async with (
        running_registry(tmp_path, endpoint, DRAIN_SECONDS="300") as registry,
        leased(registry, worker_id="w1", address="h:1") as lease,
    ):
        await registry.create("pirate", REPO)
        watch = registry.deployments.WatchDeployment(
            pb.WatchDeploymentRequest(name="acme/pirate"), metadata=registry.account()
        )
        await anext(aiter(watch))
        routes = registry.routes()
        await anext(aiter(routes))
        registry.process.terminate()
        assert await asyncio.wait_for(registry.process.wait(), 30) == 0
        for call in (lease, watch, routes):
            assert await call.code() == grpc.StatusCode.UNAVAILABLE
    assert "call_failed" not in "".join(registry.log)


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("max_lora_rank = 0", ("base_model 1 ('tiny')", "max_lora_rank is 0", "greater than or equal to 1")),
        ("prompt_pico_usd_per_token = 3", ("prompt_pico_usd_per_token is 3", "must be even")),
        ('target_modules = ["nope"]', ("'tiny'", "'nope'", "q_proj, v_proj")),
        ('local_path = "/nowhere"', ("'tiny'", "/nowhere")),
    ],
)
async def test_a_wrong_list_of_base_models_stops_the_start_with_what_is_wrong(
    tmp_path: Path, broken: str, told: tuple[str, ...]
) -> None:
    lines = base_list(write_base(tmp_path / "base")).splitlines()
    key = broken.partition(" = ")[0]
    (tmp_path / "bases.toml").write_text(
        "\n".join(broken if line.startswith(f"{key} =") else line for line in lines)
    )
    with pytest.raises(AssertionError, match="did not start") as caught:
        async with running_registry(tmp_path, "http://127.0.0.1:9"):
            pass
    for part in told:
        assert part in str(caught.value)
    assert "Traceback" not in str(caught.value)


async def test_help_lists_every_setting() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.registry", "--help", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    for option in (
        "--database-url",
        "--base-models-file",
        "--encryption-key",
        "--hub-endpoint",
        "--hub-token",
    ):
        assert option in output.decode()
