"""Hub tokens through a registry process: whose a worker is given, and what renewing one does to a deployment."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from loramux import errors as sdk
from loramux.deployment.v1 import deployment_pb2 as pb
from loramux.fleet.v1 import fleet_pb2
from loramux.localhub import LocalHub, Refuse, running
from services.common.rpc_types import RpcContext
from tests.support.registry import Registry, adapter_config, adapter_files, running_registry, running_worker

REPO = "acme/private"
TOKEN = "hf_alices_secret_token"
RENEWED = "hf_alices_renewed_token"
RUNNING = pb.Deployment.STATE_RUNNING


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    hub = LocalHub(tmp_path / "hub")
    for token in (TOKEN, RENEWED):
        hub.add_token(token, "alice")
    hub.add_repo(REPO, adapter_files(), private=True)
    hub.add_tag(REPO, "v1")
    hub.add_repo(REPO, adapter_files(adapter_config(lora_alpha=8)), private=True)
    hub.add_repo("acme/public", adapter_files(adapter_config(lora_alpha=16)))
    yield hub
    hub.close()


@pytest.fixture
async def endpoint(hub: LocalHub) -> AsyncIterator[str]:
    async with running(hub) as endpoint:
        yield endpoint


@pytest.fixture
async def registry(tmp_path: Path, endpoint: str) -> AsyncIterator[Registry]:
    async with running_registry(tmp_path, endpoint) as registry:
        yield registry


async def update(registry: Registry, **fields: Any) -> pb.Deployment:
    response = await registry.deployments.UpdateDeployment(
        pb.UpdateDeploymentRequest(name="acme/pirate", **fields),
        metadata=registry.account(),
    )
    return response.deployment


def events(registry: Registry, name: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in registry.log if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


async def test_during_an_update_each_version_has_its_own_token(registry: Registry) -> None:
    loading, proceed = asyncio.Event(), asyncio.Event()

    async def script(ref: fleet_pb2.AdapterRef, _context: RpcContext) -> None:
        if ref.hub_repo == "acme/public":
            loading.set()
            await proceed.wait()

    async with running_worker(registry, script) as worker:
        made = await registry.create("pirate", REPO, hub_token=TOKEN)
        old = (await registry.until_state("acme/pirate", RUNNING)).serving
        await update(registry, hub_repo="acme/public", hub_token="")
        await loading.wait()
        new = worker.loaded[-1]
        (route,) = (await anext(aiter(registry.routes()))).deployments
        assert (route.adapter.digest, route.adapter.deployment_uid) == (old.digest, made.uid)
        assert await registry.hub_token(made.uid, old.digest) == TOKEN
        assert (new.deployment_uid, await registry.hub_token(made.uid, new.digest)) == ("", "")
        proceed.set()
        await registry.until("acme/pirate", lambda one: not one.HasField("candidate"))
    assert await registry.hub_token(made.uid, old.digest) == ""


async def test_of_two_versions_with_one_content_the_newer_token_is_given(registry: Registry) -> None:
    loading = asyncio.Event()

    async def script(_ref: fleet_pb2.AdapterRef, _context: RpcContext) -> None:
        if len(worker.loaded) == 2:
            loading.set()
            await asyncio.Event().wait()

    async with running_worker(registry, script) as worker:
        made = await registry.create("pirate", REPO, revision="v1", hub_token=TOKEN)
        first = (await registry.until_state("acme/pirate", RUNNING)).serving
        await update(registry, revision="v1", hub_token=RENEWED)
        await loading.wait()
        response = await registry.deployments.GetDeployment(
            pb.GetDeploymentRequest(name="acme/pirate"), metadata=registry.account()
        )
        candidate = response.deployment.candidate
        assert (candidate.digest, candidate.number) == (first.digest, first.number)
        assert await registry.hub_token(made.uid, first.digest) == RENEWED


async def test_no_other_digest_opens_a_token_and_each_release_is_logged_without_it(
    tmp_path: Path, endpoint: str
) -> None:
    async with running_registry(tmp_path, endpoint) as registry:
        async with running_worker(registry):
            made = await registry.create("pirate", REPO, hub_token=TOKEN)
            digest = (await registry.until_state("acme/pirate", RUNNING)).serving.digest
        assert await registry.hub_token(made.uid, "0" * 64) == ""
        assert await registry.hub_token(made.uid, digest) == TOKEN
    (line,) = events(registry, "hub_token_released")
    assert (line["deployment"], line["uid"], line["digest"]) == ("acme/pirate", made.uid, digest)
    assert line["peer"]
    assert TOKEN not in "".join(registry.log)


class TestRenewal:
    async def test_of_what_serves_keeps_the_revision_and_loads_nothing(self, registry: Registry) -> None:
        async with running_worker(registry) as worker:
            made = await registry.create("pirate", REPO, revision="v1", hub_token=TOKEN)
            before = await registry.until_state("acme/pirate", RUNNING)
            after = await update(registry, hub_token=RENEWED)
            assert (after.state, after.serving) == (RUNNING, before.serving)
            assert not after.HasField("candidate")
            assert after.etag != before.etag
            assert await registry.hub_token(made.uid, before.serving.digest) == RENEWED
            removed = await update(registry, hub_token="")
            assert (removed.state, removed.has_hub_token) == (RUNNING, False)
            (route,) = (await anext(aiter(registry.routes()))).deployments
            assert route.adapter.deployment_uid == ""
            assert len(worker.loaded) == 1

    async def test_of_what_failed_tries_the_same_revision_again(
        self, registry: Registry, hub: LocalHub
    ) -> None:
        async with running_worker(registry):
            await registry.create("pirate", REPO, revision="v1", hub_token="hf_expired_long_ago")
            failed = await registry.until_state("acme/pirate", pb.Deployment.STATE_FAILED)
            assert failed.failure.reason == "HUB_TOKEN_REFUSED"
            again = await update(registry, hub_token=TOKEN)
            assert again.state == pb.Deployment.STATE_INITIALIZING
            done = await registry.until_state("acme/pirate", RUNNING)
        assert (done.serving.revision, done.serving.hub_repo) == ("v1", REPO)
        assert done.serving.commit not in ("", hub.commit(REPO))

    async def test_of_what_is_under_way_begins_again(self, registry: Registry) -> None:
        async with running_worker(registry):
            await registry.create("pirate", "acme/public")
            await registry.until_state("acme/pirate", RUNNING)
        await update(registry, hub_repo=REPO, revision="v1", hub_token=TOKEN)
        await registry.until("acme/pirate", lambda one: one.candidate.digest != "")
        again = await update(registry, hub_token=RENEWED)
        assert (again.candidate.hub_repo, again.candidate.revision) == (REPO, "v1")
        assert again.candidate.digest == ""
        async with running_worker(registry):
            done = (await registry.until("acme/pirate", lambda one: not one.HasField("candidate")))[-1]
        assert (done.state, done.serving.hub_repo, done.serving.revision) == (RUNNING, REPO, "v1")
        assert await registry.hub_token(done.uid, done.serving.digest) == RENEWED


class TestWhatAnUpdateKeeps:
    async def test_all_that_it_does_not_name(self, registry: Registry, hub: LocalHub) -> None:
        async with running_worker(registry):
            await registry.create("pirate", REPO, revision="v1", hub_token=TOKEN)
            first = await registry.until_state("acme/pirate", RUNNING)
            hub.fault = lambda _request: Refuse(503)
            kept = await update(registry)
            assert (kept.candidate.hub_repo, kept.candidate.revision) == (REPO, "v1")
            failed = (await registry.until("acme/pirate", lambda one: one.failure.reason != ""))[-1]
            assert (failed.state, failed.serving, failed.has_hub_token) == (RUNNING, first.serving, True)

    async def test_but_not_one_repo_s_revision_for_another(self, registry: Registry) -> None:
        async with running_worker(registry):
            await registry.create("pirate", REPO, revision="v1", hub_token=TOKEN)
            first = (await registry.until_state("acme/pirate", RUNNING)).serving
            await update(registry, hub_repo="acme/public")
            second = (await registry.until("acme/pirate", lambda one: not one.HasField("candidate")))[
                -1
            ].serving
            assert (second.hub_repo, second.revision) == ("acme/public", "")
            assert (first.number, second.number) == (1, 2)

    async def test_an_empty_revision_is_the_default_branch(self, registry: Registry, hub: LocalHub) -> None:
        async with running_worker(registry):
            await registry.create("pirate", REPO, revision="v1", hub_token=TOKEN)
            await registry.until_state("acme/pirate", RUNNING)
            await update(registry, revision="")
            done = (await registry.until("acme/pirate", lambda one: not one.HasField("candidate")))[-1]
        assert (done.serving.revision, done.serving.commit) == ("", hub.commit(REPO))


async def test_a_token_is_nowhere_in_clear(tmp_path: Path, hub: LocalHub, endpoint: str) -> None:
    hub.add_repo(REPO, adapter_files(), private=True)
    async with running_registry(tmp_path, endpoint, LOG_LEVEL="debug") as registry:
        async with running_worker(registry) as worker:
            made = await registry.create("pirate", REPO, hub_token=TOKEN)
            assert made.has_hub_token
            await registry.until_state("acme/pirate", pb.Deployment.STATE_RUNNING)
        assert worker.loaded[0].deployment_uid == made.uid
        assert await registry.hub_token(made.uid, worker.loaded[0].digest) == TOKEN
        await registry.create("refused", REPO, hub_token="hf_wrong_but_secret")
        await registry.until_state("acme/refused", pb.Deployment.STATE_FAILED)
        stored = _database_files(tmp_path)
    assert stored
    for secret in (TOKEN, "hf_wrong_but_secret"):
        assert not any(secret.encode() in content for content in stored)
        assert secret not in "".join(registry.log)


def _database_files(folder: Path) -> list[bytes]:
    """The database with its write-ahead log."""
    return [file.read_bytes() for file in folder.glob("registry.db*")]


async def test_a_deleted_deployment_s_token_is_gone(tmp_path: Path, endpoint: str) -> None:
    async with running_registry(tmp_path, endpoint) as registry:
        made = await registry.create("pirate", REPO, hub_token=TOKEN)
        await registry.deployments.DeleteDeployment(
            pb.DeleteDeploymentRequest(name="acme/pirate"), metadata=registry.account()
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await registry.hub_token(made.uid, "0" * 64)
        assert isinstance(sdk.from_rpc_error(caught.value), sdk.NotFoundError)


async def test_another_encryption_key_fails_what_needs_the_token_and_says_what_to_do(
    tmp_path: Path, endpoint: str
) -> None:
    async with running_registry(tmp_path, endpoint) as registry:
        await registry.create("pirate", REPO, hub_token=TOKEN)
        await registry.until_state("acme/pirate", pb.Deployment.STATE_DEPLOYING)
    other = "//////////////////////////////////////////8="
    async with running_registry(tmp_path, endpoint, ENCRYPTION_KEY=other) as registry:
        await registry.deployments.UpdateDeployment(
            pb.UpdateDeploymentRequest(name="acme/pirate"), metadata=registry.account()
        )
        failed = await registry.until_state("acme/pirate", pb.Deployment.STATE_FAILED)
    assert failed.failure.reason == "HUB_TOKEN_UNREADABLE"
