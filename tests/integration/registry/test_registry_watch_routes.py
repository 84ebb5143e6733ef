"""Routes over gRPC: a large table arrives in parts, and a gateway that comes back is sent what it lacks."""

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from loramux.deployment.v1 import deployment_pb2 as pb
from loramux.fleet.v1 import fleet_pb2, routing_pb2, routing_pb2_grpc
from loramux.localhub import LocalHub, running
from services.common.interceptors import CallInterceptor, InternalDoor
from services.common.internal import REQUEST_ID, InternalCalls
from services.registry.bases.catalog import Catalog
from services.registry.deployments.deployment import Adapter, AdapterVersion, Deployment, RepoExtras, State
from services.registry.deployments.sealing import Sealer
from services.registry.fleet.route_log import Routes
from services.registry.rpc import routing_servicer
from services.registry.rpc.routing_servicer import RoutingServicer
from tests.support.registry import adapter_files, leased, running_registry, running_worker
from tests.support.secrets import GATEWAY_SECRET

REPO = "acme/adapter"
MIB = 1 << 20
CALLS = InternalCalls(GATEWAY_SECRET)


def deployment(number: int) -> Deployment:
    moment = datetime.fromtimestamp(0, UTC)
    content = AdapterVersion(f"org/a{number}", "c" * 40, f"{number:064x}", "2" * 64, 100, 8, ("q_proj",))
    serving = Adapter("org/a", "", None, content, 1)
    return Deployment(
        f"{number:032x}", "acme", f"d{number:05}", "tiny", State.RUNNING, serving, moment, moment
    )


async def no_extras(_sha256: str) -> RepoExtras:
    return RepoExtras()


@asynccontextmanager
async def serving(routes: Routes) -> AsyncIterator["routing_pb2_grpc.RoutingServiceAsyncStub"]:
    """A RoutingService with this table, and a stub of it."""
    server = grpc.aio.server(interceptors=[CallInterceptor({routing_servicer.NAME: InternalDoor(CALLS)})])
    servicer = RoutingServicer(Catalog([], Sealer(bytes(32))), routes, no_extras)
    routing_pb2_grpc.add_RoutingServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with CALLS.channel(f"127.0.0.1:{port}") as channel:
            yield routing_pb2_grpc.RoutingServiceStub(channel)
    finally:
        await server.stop(None)


def watch(stub: Any, resume_from: routing_pb2.TableVersion | None = None) -> Any:  # Any: grpc's call
    request = routing_pb2.WatchRoutesRequest(resume_from=resume_from)
    return stub.WatchRoutes(request, metadata=CALLS.metadata(), timeout=60)


async def whole(
    messages: AsyncIterator[routing_pb2.WatchRoutesResponse],
) -> list[routing_pb2.WatchRoutesResponse]:
    """The parts of one update."""
    parts = [await anext(messages)]
    while parts[-1].more:
        parts.append(await anext(messages))
    return parts


async def test_a_table_of_megabytes_arrives_in_parts_with_the_version_in_the_last() -> None:
    routes = Routes([])
    for number in range(6_000):
        routes.set_deployment(deployment(number))
    async with serving(routes) as stub:
        call = watch(stub)
        parts = await whole(aiter(call))
        assert dict(await call.initial_metadata())[REQUEST_ID]
        call.cancel()
    assert len(parts) > 1
    assert sum(part.ByteSize() for part in parts) > MIB
    assert max(part.ByteSize() for part in parts) < MIB
    assert all(part.snapshot for part in parts)
    assert [part.HasField("version") for part in parts] == [False] * (len(parts) - 1) + [True]
    assert len({one.uid for part in parts for one in part.deployments}) == 6_000


async def test_a_gateway_that_comes_back_gets_only_what_has_changed() -> None:
    routes = Routes([])
    for number in range(3):
        routes.set_deployment(deployment(number))
    async with serving(routes) as stub:
        (snapshot,) = await whole(aiter(watch(stub)))
        assert snapshot.snapshot
        routes.set_deployment(deployment(3))
        routes.set_deployment(replace(deployment(0), state=State.DELETED))
        (update,) = await whole(aiter(watch(stub, snapshot.version)))
    assert not update.snapshot
    assert [one.name for one in update.deployments] == ["acme/d00003"]
    assert list(update.removed_deployments) == [deployment(0).uid]
    assert (update.version.table, update.version.number) == (
        snapshot.version.table,
        snapshot.version.number + 2,
    )


async def test_one_that_comes_from_another_registry_gets_everything() -> None:
    before, now = Routes([]), Routes([])
    for routes in (before, now):
        routes.set_deployment(deployment(1))
    async with serving(before) as stub:
        (old,) = await whole(aiter(watch(stub)))
    async with serving(now) as stub:
        (update,) = await whole(aiter(watch(stub, old.version)))
    assert update.snapshot
    assert [one.name for one in update.deployments] == ["acme/d00001"]
    assert update.version.table != old.version.table


async def test_a_registry_that_has_restarted_sends_a_snapshot_whatever_one_has(tmp_path: Path) -> None:
    async with running_registry(tmp_path, "http://127.0.0.1:9") as registry:
        (first,) = await whole(aiter(registry.routes()))
    async with running_registry(tmp_path, "http://127.0.0.1:9") as registry:
        (again,) = await whole(aiter(registry.routes(first.version)))
    assert again.snapshot
    assert [one.base_model.name for one in again.base_models] == ["tiny"]


@pytest.mark.parametrize("draining", [True, False])
async def test_a_worker_that_says_it_drains_leaves_in_order(tmp_path: Path, draining: bool) -> None:
    gone = routing_pb2.RemovedWorker
    async with running_registry(tmp_path, "http://127.0.0.1:9") as registry:
        messages = aiter(registry.routes())
        await whole(messages)
        async with leased(registry, worker_id="w1", address="h:1") as lease:
            await lease.write(_report(draining=draining))
            async for update in messages:
                if any(one.report.running_sequences == 1 for one in update.workers):
                    break
        async for update in messages:
            if update.removed_workers:
                break
    reason = gone.REASON_DRAINED if draining else gone.REASON_LOST
    assert list(update.removed_workers) == [gone(worker_id="w1", reason=reason)]


def _report(*, draining: bool) -> fleet_pb2.RegisterRequest:
    return fleet_pb2.RegisterRequest(report=fleet_pb2.WorkerReport(running_sequences=1, draining=draining))


async def test_a_stranger_s_adapter_of_a_name_of_megabytes_stops_nobody_s_routes(tmp_path: Path) -> None:
    name = f"base_model.model.{'x' * 2_500_000}.lora_A.weight"
    header = json.dumps({name: {"dtype": "I8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    hub = LocalHub(tmp_path / "hub")
    hub.add_repo(REPO, adapter_files())
    crafted = struct.pack("<Q", len(header)) + header + b"\0"
    hub.add_repo("mallory/boom", {**adapter_files(), "adapter_model.safetensors": crafted})
    async with running(hub) as endpoint, running_registry(tmp_path, endpoint) as registry:
        await registry.create("boom", "mallory/boom", account="mallory")
        failed = await registry.until_state("mallory/boom", pb.Deployment.STATE_FAILED, account="mallory")
        assert failed.failure.reason == "ADAPTER_TENSORS_INVALID"
        assert len(failed.failure.message) <= 1_024
        assert failed.ByteSize() < 4_000
        (snapshot,) = await whole(aiter(registry.routes()))
        (route,) = snapshot.deployments
        assert route.failure_reason == "ADAPTER_TENSORS_INVALID"
        assert len(route.failure_message) <= 256
        assert snapshot.ByteSize() < 4_000
        async with running_worker(registry):
            await registry.create("pirate", REPO)
            await registry.until_state("acme/pirate", pb.Deployment.STATE_RUNNING)
        (after,) = await whole(aiter(registry.routes()))
        assert {one.name for one in after.deployments} == {"mallory/boom", "acme/pirate"}
    hub.close()
