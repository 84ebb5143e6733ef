"""Deployments through a registry process: created, walked to RUNNING or FAILED, followed, updated, deleted."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import pytest

from loramux import errors as sdk
from loramux.deployment.v1 import deployment_pb2 as pb
from loramux.fleet.v1 import fleet_pb2
from loramux.localhub import Hold, LocalHub, Refuse, running
from services.common import errors
from services.common.rpc_types import RpcContext
from tests.support.registry import (
    BASE,
    Registry,
    adapter_config,
    adapter_files,
    adapter_tensors,
    running_registry,
    running_worker,
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
async def registry(tmp_path: Path, hub: LocalHub) -> AsyncIterator[Registry]:
    async with running(hub) as endpoint, running_registry(tmp_path, endpoint) as registry:
        yield registry


async def refused(call: object) -> sdk.LoramuxError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]  # a call or a coroutine
    return sdk.from_rpc_error(caught.value)


async def test_a_deployment_walks_to_running_and_tells_what_it_became(
    registry: Registry, hub: LocalHub
) -> None:
    async with running_worker(registry) as worker:
        made = await registry.create("pirate", REPO)
        assert (made.name, made.state, made.base_model) == (
            "acme/pirate",
            pb.Deployment.STATE_INITIALIZING,
            BASE,
        )
        seen = await registry.until("acme/pirate", lambda one: one.state == pb.Deployment.STATE_RUNNING)
    states = [one.state for one in seen]
    assert states == sorted(states)
    running = seen[-1]
    assert running.serving.commit == hub.commit(REPO)
    assert (running.serving.rank, list(running.serving.target_modules)) == (2, ["q_proj", "v_proj"])
    assert len({one.etag for one in seen}) == len(seen)
    assert worker.loaded == [
        fleet_pb2.AdapterRef(
            digest=running.serving.digest,
            hub_repo=REPO,
            commit=running.serving.commit,
            config_sha256=worker.loaded[0].config_sha256,
            weights_sha256=worker.loaded[0].weights_sha256,
            size_bytes=running.serving.size_bytes,
        )
    ]


async def test_without_a_worker_it_waits_and_goes_on_when_one_comes(registry: Registry) -> None:
    await registry.create("pirate", REPO)
    waiting = f"waiting for a worker of base model {BASE}"
    seen = await registry.until("acme/pirate", lambda one: one.status_message == waiting)
    assert seen[-1].state == pb.Deployment.STATE_DEPLOYING
    async with running_worker(registry):
        await registry.until_state("acme/pirate", pb.Deployment.STATE_RUNNING)


@pytest.mark.parametrize(
    ("repo", "reason"),
    [
        ("acme/missing", "HUB_REPO_PRIVATE"),
        ("acme/ranky", "ADAPTER_RANK_ABOVE_CAP"),
        ("acme/bin", "ADAPTER_PICKLE_ONLY"),
    ],
)
async def test_a_refused_adapter_fails_with_its_reason(
    registry: Registry, hub: LocalHub, repo: str, reason: str
) -> None:
    hub.add_repo("acme/ranky", adapter_files(adapter_config(r=8), adapter_tensors(8)))
    hub.add_repo("acme/bin", {"adapter_config.json": b"{}", "adapter_model.bin": b"\x80"})
    await registry.create("bad", repo)
    failed = await registry.until_state("acme/bad", pb.Deployment.STATE_FAILED)
    assert failed.failure.reason == reason
    assert failed.failure.message
    assert failed.failure.metadata


async def test_a_hub_that_stays_away_fails_it_with_what_to_do(registry: Registry, hub: LocalHub) -> None:
    hub.fault = lambda _request: Refuse(503)
    await registry.create("pirate", REPO)
    failed = await registry.until_state("acme/pirate", pb.Deployment.STATE_FAILED)
    assert failed.failure.reason == "HUB_UNREACHABLE"
    assert "try again" in failed.failure.message


async def test_a_worker_s_refusal_fails_it_with_the_worker_s_own_words(registry: Registry) -> None:
    async def script(_ref: fleet_pb2.AdapterRef, _context: RpcContext) -> None:
        raise errors.PreconditionError("ADAPTER_TAMPERED", "x", "the bytes differ", {"sha256": "ff"})

    async with running_worker(registry, script):
        await registry.create("pirate", REPO)
        failed = await registry.until_state("acme/pirate", pb.Deployment.STATE_FAILED)
    assert (failed.failure.reason, failed.failure.message) == ("ADAPTER_TAMPERED", "the bytes differ")
    assert dict(failed.failure.metadata) == {"sha256": "ff"}


async def test_a_busy_worker_is_asked_again(registry: Registry) -> None:
    answers = iter([errors.UnavailableError("ADAPTER_CACHE_FULL", "full", retry_after=0.1)])

    async def script(_ref: fleet_pb2.AdapterRef, _context: RpcContext) -> None:
        for error in answers:
            raise error

    async with running_worker(registry, script) as worker:
        await registry.create("pirate", REPO)
        await registry.until_state("acme/pirate", pb.Deployment.STATE_RUNNING)
    assert len(worker.loaded) == 2


async def test_a_worker_that_dies_while_loading_hands_over_to_the_next(registry: Registry) -> None:
    loading = asyncio.Event()

    async def hang(_ref: fleet_pb2.AdapterRef, _context: RpcContext) -> None:
        loading.set()
        await asyncio.Event().wait()

    async with running_worker(registry, hang, worker_id="doomed"):
        await registry.create("pirate", REPO)
        await loading.wait()
    async with running_worker(registry, worker_id="heir"):
        await registry.until_state("acme/pirate", pb.Deployment.STATE_RUNNING)


class TestDelete:
    async def delete(self, registry: Registry, etag: str = "") -> pb.Deployment:
        response = await registry.deployments.DeleteDeployment(
            pb.DeleteDeploymentRequest(name="acme/pirate", etag=etag), metadata=registry.account()
        )
        return response.deployment

    async def test_it_frees_the_name_and_ends_the_watches(self, registry: Registry) -> None:
        made = await registry.create("pirate", REPO)
        watch = registry.deployments.WatchDeployment(
            pb.WatchDeploymentRequest(name="acme/pirate"), metadata=registry.account(), timeout=30
        )
        messages = aiter(watch)
        await anext(messages)
        gone = await self.delete(registry)
        assert gone.state == pb.Deployment.STATE_DELETED
        seen = [message.deployment.state async for message in messages]
        assert seen[-1] == pb.Deployment.STATE_DELETED
        again = await registry.create("pirate", REPO)
        assert again.uid != made.uid

    async def test_while_it_loads_the_load_is_cancelled(self, registry: Registry) -> None:
        loading, ended = asyncio.Event(), asyncio.Event()

        async def hang(_ref: fleet_pb2.AdapterRef, _context: RpcContext) -> None:
            loading.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with running_worker(registry, hang):
            await registry.create("pirate", REPO)
            await loading.wait()
            await self.delete(registry)
            await asyncio.wait_for(ended.wait(), 10)

    async def test_while_the_hub_is_asked_nothing_comes_of_it(
        self, registry: Registry, hub: LocalHub
    ) -> None:
        release, asked = threading.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def hold(_request: object) -> Hold:
            loop.call_soon_threadsafe(asked.set)
            return Hold(release)

        hub.fault = hold
        await registry.create("pirate", REPO)
        await asked.wait()
        await self.delete(registry)
        release.set()
        hub.fault = None
        async with running_worker(registry) as worker:
            await registry.create("other", REPO)
            await registry.until_state("acme/other", pb.Deployment.STATE_RUNNING)
        assert len(worker.loaded) == 1

    async def test_a_stale_etag_deletes_nothing(self, registry: Registry) -> None:
        await registry.create("pirate", REPO)
        assert isinstance(await refused(self.delete(registry, "stale")), sdk.StaleEtagError)
        assert isinstance(await refused(registry.create("pirate", REPO)), sdk.AlreadyExistsError)


async def test_two_watchers_see_every_change_in_order(registry: Registry) -> None:
    await registry.create("pirate", REPO)
    watches = [
        asyncio.create_task(
            registry.until("acme/pirate", lambda one: one.state == pb.Deployment.STATE_RUNNING)
        )
        for _ in range(2)
    ]
    await registry.until_state("acme/pirate", pb.Deployment.STATE_DEPLOYING)
    async with running_worker(registry):
        first, second = await asyncio.gather(*watches)
    assert [one.etag for one in first][-2:] == [one.etag for one in second][-2:]
    assert len({one.etag for one in first}) == len(first)
