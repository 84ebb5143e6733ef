"""A worker process from start to end: what it waits for, what the registry knows of it, how it drains."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from loramux.deployment.v1 import deployment_pb2, deployment_pb2_grpc
from loramux.fleet.v1 import routing_pb2, routing_pb2_grpc
from loramux.inference.v1 import inference_pb2
from loramux.localhub import LocalHub, running
from services.common.internal import InternalCalls
from tests.support.models import write_random_adapter, write_tiny_base
from tests.support.secrets import GATEWAY_SECRET
from tests.support.worker import (
    CALLS,
    ServiceProcess,
    collect,
    first_message,
    publish,
    registry_variables,
    running_service,
    worker_client,
    worker_variables,
)

pytestmark = pytest.mark.integration

PROMPT = [10, 11, 12, 13]
TOKEN = "hf_anna_secret_token"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("lifecycle") / "base")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    hub = LocalHub(tmp_path / "hub")
    yield hub
    hub.close()


@pytest.fixture
def endpoint(hub: LocalHub) -> Iterator[str]:
    with running(hub) as endpoint:
        yield endpoint


GATEWAY = InternalCalls(GATEWAY_SECRET)


class Routes:
    """What a gateway sees of workers."""

    def __init__(self, routing: "routing_pb2_grpc.RoutingServiceAsyncStub") -> None:
        self._messages = aiter(
            routing.WatchRoutes(routing_pb2.WatchRoutesRequest(), metadata=GATEWAY.metadata(), timeout=120)
        )
        self.workers: dict[str, routing_pb2.WorkerRoute] = {}
        self.deployments: list[routing_pb2.DeploymentRoute] = []

    async def until(self, met: Callable[[list[routing_pb2.WorkerRoute]], bool]) -> None:
        while not met(list(self.workers.values())):
            message = await anext(self._messages)
            self.deployments += message.deployments
            self.workers |= {one.registration.worker_id: one for one in message.workers}
            for gone in message.removed_workers:
                self.workers.pop(gone.worker_id, None)


@asynccontextmanager
async def routes(registry: ServiceProcess) -> AsyncIterator[Routes]:
    async with CALLS.channel(registry.address) as channel:
        yield Routes(routing_pb2_grpc.RoutingServiceStub(channel))


async def test_a_drain_is_told_and_lets_a_running_stream_end(tmp_path: Path, base: Path) -> None:
    with (
        running_service("registry", registry_variables(tmp_path, base, "http://127.0.0.1:9")) as registry,
        running_service(
            "worker", worker_variables(registry.address, "http://127.0.0.1:9", tmp_path / "cache")
        ) as worker,
    ):
        async with worker_client(worker.address) as client, routes(registry) as seen:
            await seen.until(lambda workers: len(workers) == 1)
            call = client.stream(PROMPT, max_tokens=1000, ignore_eos=True)
            await first_message(call)
            worker.process.terminate()
            await seen.until(lambda workers: any(one.report.draining for one in workers))
            answer = await collect(call)
            await seen.until(lambda workers: not workers)
        assert await asyncio.to_thread(worker.wait) == 0
    assert answer.usage.completion_tokens == 1000
    assert answer.choice.finish_reason == inference_pb2.FINISH_REASON_LENGTH


async def test_a_stream_longer_than_the_drain_time_is_cut(tmp_path: Path, base: Path) -> None:
    with (
        running_service("registry", registry_variables(tmp_path, base, "http://127.0.0.1:9")) as registry,
        running_service(
            "worker",
            worker_variables(registry.address, "http://127.0.0.1:9", tmp_path / "cache", DRAIN_SECONDS="0"),
        ) as worker,
    ):
        async with worker_client(worker.address) as client:
            call = client.stream(PROMPT, max_tokens=1000, ignore_eos=True)
            await first_message(call)
            assert await asyncio.to_thread(worker.stop) == 0
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await collect(call)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_a_worker_waits_for_its_registry_and_comes_back_to_it(tmp_path: Path, base: Path) -> None:
    variables = registry_variables(tmp_path, base, "http://127.0.0.1:9")
    with running_service("registry", variables) as first:
        address = first.address
    with running_service(
        "worker", worker_variables(address, "http://127.0.0.1:9", tmp_path / "cache")
    ) as worker:
        await asyncio.to_thread(worker.wait_for, "waiting_for_registry")
        variables["PORT"] = address.rsplit(":", 1)[1]
        with running_service("registry", variables) as second:
            async with routes(second) as seen:
                await seen.until(lambda workers: len(workers) == 1)
            second.kill()
        async with worker_client(worker.address) as client:
            # The registry is away, and serving goes on.
            assert len((await client.answer(PROMPT, max_tokens=5, ignore_eos=True)).token_ids) == 5
        with running_service("registry", variables) as third:
            async with routes(third) as seen:
                await seen.until(lambda workers: len(workers) == 1)


async def test_a_full_worker_refuses_and_says_when_to_retry(tmp_path: Path, base: Path) -> None:
    with (
        running_service("registry", registry_variables(tmp_path, base, "http://127.0.0.1:9")) as registry,
        running_service(
            "worker",
            worker_variables(
                registry.address, "http://127.0.0.1:9", tmp_path / "cache", MAX_SEQUENCES="1", MAX_WAITING="1"
            ),
        ) as worker,
    ):
        async with worker_client(worker.address) as client:
            held = [client.stream(PROMPT, max_tokens=1000, ignore_eos=True)]
            await first_message(held[0])
            held.append(client.stream(PROMPT, max_tokens=1000, ignore_eos=True))
            await client.until(lambda stats: stats.waiting_sequences == 1)
            error = await client.refusal(PROMPT)
            assert (error.reason, error.retry_after) == ("QUEUE_FULL", 1.0)
            for call in held:
                call.cancel()
            await client.until_idle()
            assert len((await client.answer(PROMPT, max_tokens=3, ignore_eos=True)).token_ids) == 3


async def test_a_private_adapter_is_deployed_with_its_token_and_reported_at_once(
    tmp_path: Path, base: Path, hub: LocalHub, endpoint: str
) -> None:
    hub.add_token(TOKEN, "anna")
    folder = write_random_adapter(tmp_path / "adapter", base, rank=4, base_name="org/Tiny-Base")
    ref = publish(hub, "anna/secret", folder, private=True)
    with (
        running_service("registry", registry_variables(tmp_path, base, endpoint)) as registry,
        running_service("worker", worker_variables(registry.address, endpoint, tmp_path / "cache")) as worker,
    ):
        async with routes(registry) as seen, worker_client(worker.address) as client:
            async with GATEWAY.channel(registry.address) as channel:
                await deployment_pb2_grpc.DeploymentServiceStub(channel).CreateDeployment(
                    deployment_pb2.CreateDeploymentRequest(
                        deployment_id="secret", hub_repo="anna/secret", hub_token=TOKEN
                    ),
                    metadata=GATEWAY.metadata(account="anna"),
                )
            await seen.until(
                lambda workers: any(ref.digest in one.report.resident_digests for one in workers)
            )
            answer = await client.answer(PROMPT, ref, max_tokens=4, ignore_eos=True)
    assert answer.usage.completion_tokens == 4
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sorted(path.name for path in kept) == [
        ".lock", "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    assert not any(TOKEN in line for line in worker.lines + registry.lines)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_a_base_on_the_hub_is_fetched_without_what_could_be_executed(
    tmp_path: Path, base: Path, hub: LocalHub, endpoint: str
) -> None:
    hub.add_token(TOKEN, "operator")
    hub.add_repo(
        "org/Tiny-Base",
        {**contents(base), "modeling_tiny.py": b"raise SystemExit", "pytorch_model.bin": b"pickle"},
        private=True,
    )
    with (
        running_service(
            "registry", registry_variables(tmp_path, "org/Tiny-Base", endpoint, HUB_TOKEN=TOKEN)
        ) as registry,
        running_service(
            "worker", worker_variables(registry.address, endpoint, tmp_path / "cache", HUB_TOKEN=TOKEN)
        ) as worker,
    ):
        async with worker_client(worker.address) as client:
            assert (await client.answer(PROMPT, max_tokens=4, ignore_eos=True)).usage.completion_tokens == 4
    kept = {path.name for path in (tmp_path / "cache" / "bases").rglob("*")}
    assert "model.safetensors" in kept
    assert not kept & {"modeling_tiny.py", "pytorch_model.bin"}


def test_a_worker_for_an_unknown_base_says_so_and_ends(tmp_path: Path, base: Path) -> None:
    with running_service("registry", registry_variables(tmp_path, base, "http://127.0.0.1:9")) as registry:
        variables = worker_variables(registry.address, "http://127.0.0.1:9", tmp_path / "cache")
        worker = ServiceProcess("worker", variables | {"BASE_MODEL": "another"})
        assert worker.wait() == 1
    assert "another" in worker.wait_for("start_refused")["message"]


def test_a_worker_with_the_wrong_secret_says_so_and_ends(tmp_path: Path, base: Path) -> None:
    with running_service("registry", registry_variables(tmp_path, base, "http://127.0.0.1:9")) as registry:
        variables = worker_variables(registry.address, "http://127.0.0.1:9", tmp_path / "cache")
        worker = ServiceProcess("worker", variables | {"WORKER_SECRET": "x" * 32})
        assert worker.wait() == 1
    assert "secret" in worker.wait_for("start_refused")["message"]
    assert not any("x" * 32 in line for line in worker.lines)


def test_log_lines_are_json(tmp_path: Path, base: Path) -> None:
    with running_service("registry", registry_variables(tmp_path, base, "http://127.0.0.1:9")) as registry:
        variables = worker_variables(registry.address, "http://127.0.0.1:9", tmp_path / "cache")
        with running_service("worker", variables) as worker:
            worker.wait_for("registered")
    events = [json.loads(line)["event"] for line in worker.lines]
    assert (events[0], events[-1]) == ("starting", "stopped")
    assert {"engine_starting", "engine_started", "serving", "registered", "draining"} <= set(events)
