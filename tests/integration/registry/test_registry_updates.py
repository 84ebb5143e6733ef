"""Updates through a registry process: what served goes on until what replaces it is loaded."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from loramux import errors as sdk
from loramux.deployment.v1 import deployment_pb2 as pb
from loramux.fleet.v1 import fleet_pb2, routing_pb2
from loramux.localhub import LocalHub, running
from services.common.rpc_types import RpcContext
from tests.support.registry import (
    Registry,
    adapter_config,
    adapter_files,
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


class TestUpdate:
    async def update(self, registry: Registry, **fields: Any) -> pb.Deployment:
        request = pb.UpdateDeploymentRequest(name="acme/pirate", **fields)
        response = await registry.deployments.UpdateDeployment(request, metadata=registry.account())
        return response.deployment

    async def test_the_old_version_serves_until_the_new_one_is_loaded(
        self, registry: Registry, hub: LocalHub
    ) -> None:
        proceed, loading = asyncio.Event(), asyncio.Event()

        async def script(ref: fleet_pb2.AdapterRef, _context: RpcContext) -> None:
            if ref.hub_repo != REPO:
                loading.set()
                await proceed.wait()

        hub.add_repo("acme/better", adapter_files(adapter_config(lora_alpha=8)))
        async with running_worker(registry, script):
            await registry.create("pirate", REPO)
            old = (await registry.until_state("acme/pirate", pb.Deployment.STATE_RUNNING)).serving
            answered = await self.update(registry, hub_repo="acme/better")
            assert (answered.state, answered.serving) == (pb.Deployment.STATE_RUNNING, old)
            assert answered.candidate.hub_repo == "acme/better"
            await loading.wait()
            routes = registry.routes()
            snapshot = await routes.read()
            assert isinstance(snapshot, routing_pb2.WatchRoutesResponse)
            assert snapshot.deployments[0].adapter.digest == old.digest
            proceed.set()
            seen = await registry.until("acme/pirate", lambda one: not one.HasField("candidate"))
            routes.cancel()
        assert seen[-1].serving.hub_repo == "acme/better"
        assert seen[-1].serving.digest not in ("", old.digest)
        assert {one.state for one in seen} == {pb.Deployment.STATE_RUNNING}

    async def test_a_failed_one_leaves_the_old_version_serving(
        self, registry: Registry, hub: LocalHub
    ) -> None:
        hub.add_repo("acme/bad", adapter_files(adapter_config(use_dora=True)))
        async with running_worker(registry):
            await registry.create("pirate", REPO)
            old = await registry.until_state("acme/pirate", pb.Deployment.STATE_RUNNING)
            await self.update(registry, hub_repo="acme/bad", hub_token="hf_of_no_use_at_all")
            after = (await registry.until("acme/pirate", lambda one: one.failure.reason != ""))[-1]
        assert after.failure.reason == "HUB_TOKEN_REFUSED"
        assert (after.state, after.serving, after.has_hub_token) == (
            pb.Deployment.STATE_RUNNING,
            old.serving,
            False,
        )
        assert not after.HasField("candidate")

    async def test_a_failed_deployment_begins_anew(self, registry: Registry, hub: LocalHub) -> None:
        hub.add_repo(REPO, adapter_files(), private=True)
        async with running_worker(registry):
            await registry.create("pirate", REPO)
            assert (
                await registry.until_state("acme/pirate", pb.Deployment.STATE_FAILED)
            ).failure.reason == "HUB_REPO_PRIVATE"
            again = await self.update(registry, hub_token=TOKEN)
            assert (again.state, again.has_hub_token, again.failure.reason) == (
                pb.Deployment.STATE_INITIALIZING,
                True,
                "",
            )
            done = await registry.until_state("acme/pirate", pb.Deployment.STATE_RUNNING)
        assert not done.HasField("failure")

    async def test_a_stale_etag_changes_nothing(self, registry: Registry) -> None:
        async with running_worker(registry):
            made = await registry.create("pirate", REPO)
            now = await registry.until_state("acme/pirate", pb.Deployment.STATE_RUNNING)
            error = await refused(self.update(registry, etag=made.etag))
            assert isinstance(error, sdk.StaleEtagError)
            assert (await self.update(registry, etag=now.etag)).HasField("candidate")

    async def test_a_new_one_replaces_one_that_is_under_way(self, registry: Registry, hub: LocalHub) -> None:
        hub.add_repo("acme/second", adapter_files(adapter_config(lora_alpha=8)))
        await registry.create("pirate", REPO)
        await registry.until_state("acme/pirate", pb.Deployment.STATE_DEPLOYING)
        await self.update(registry, hub_repo="acme/second")
        async with running_worker(registry) as worker:
            done = await registry.until_state("acme/pirate", pb.Deployment.STATE_RUNNING)
        assert done.serving.hub_repo == "acme/second"
        assert [ref.hub_repo for ref in worker.loaded] == ["acme/second"]

    async def test_an_owner_may_say_that_an_adapter_is_for_its_base_and_it_stays_said(
        self, registry: Registry, hub: LocalHub
    ) -> None:
        """LLaMA-Factory and others write the path of a folder (registry review 7)."""
        elsewhere = adapter_config(base_model_name_or_path="/mnt/models/Tiny", lora_alpha=8)
        hub.add_repo("acme/elsewhere", adapter_files(elsewhere))
        async with running_worker(registry):
            await registry.create("pirate", "acme/elsewhere")
            failed = await registry.until_state("acme/pirate", pb.Deployment.STATE_FAILED)
            assert failed.failure.reason == "ADAPTER_BASE_MISMATCH"
            assert "accept_base_name" in failed.failure.message
            await self.update(registry, accept_base_name=True)
            await registry.until_state("acme/pirate", pb.Deployment.STATE_RUNNING)
            hub.add_repo("acme/elsewhere", adapter_files({**elsewhere, "lora_alpha": 16}))
            await self.update(registry)
            seen = await registry.until("acme/pirate", lambda one: not one.HasField("candidate"))
            assert not seen[-1].HasField("failure")
            made = await registry.create("at-once", "acme/elsewhere", accept_base_name=True)
            await registry.until_state(made.name, pb.Deployment.STATE_RUNNING)
            await self.update(registry, accept_base_name=False)
            seen = await registry.until("acme/pirate", lambda one: not one.HasField("candidate"))
            assert seen[-1].failure.reason == "ADAPTER_BASE_MISMATCH"
            assert seen[-1].state == pb.Deployment.STATE_RUNNING
