"""The chat template of an adapter's repo through a registry process: pinned, shown, switched, and told to gateways."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from loramux import errors as sdk
from loramux.deployment.v1 import deployment_pb2 as pb
from loramux.fleet.v1 import routing_pb2
from loramux.localhub import LocalHub, running
from tests.support.registry import Registry, adapter_files, running_registry, running_worker

REPO, NAME = "acme/styled", "acme/pirate"
EXTRAS = {
    "chat_template.jinja": b"{{ bos_token }}{{ messages }}",
    "generation_config.json": b'{"eos_token_id": [5, 7]}',
}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    hub = LocalHub(tmp_path / "hub")
    hub.add_repo(REPO, adapter_files() | EXTRAS)
    yield hub
    hub.close()


@pytest.fixture
async def registry(tmp_path: Path, hub: LocalHub) -> AsyncIterator[Registry]:
    async with running(hub) as endpoint, running_registry(tmp_path, endpoint) as registry:
        yield registry


async def updated(registry: Registry, **fields: Any) -> pb.Deployment:
    """Update, and wait until it has come to something."""
    request = pb.UpdateDeploymentRequest(name=NAME, **fields)
    await registry.deployments.UpdateDeployment(request, metadata=registry.account())
    seen = await registry.until(NAME, lambda one: not one.HasField("candidate"))
    return seen[-1]


async def route(registry: Registry) -> routing_pb2.DeploymentRoute:
    call = registry.routes()
    snapshot = await call.read()
    call.cancel()
    assert isinstance(snapshot, routing_pb2.WatchRoutesResponse)
    return snapshot.deployments[0]


async def extras_of(registry: Registry, sha256: str) -> pb.RepoExtras:
    response = await registry.routing.GetRepoExtras(
        routing_pb2.GetRepoExtrasRequest(sha256=sha256), metadata=registry.gateways.metadata()
    )
    return response.extras


async def test_it_is_pinned_with_the_version_and_shown_and_told_to_gateways(
    registry: Registry, hub: LocalHub
) -> None:
    async with running_worker(registry):
        await registry.create("pirate", REPO)
        made = await registry.until_state(NAME, pb.Deployment.STATE_RUNNING)
        assert made.serving.extras == pb.RepoExtras(
            chat_template="{{ bos_token }}{{ messages }}",
            end_token_ids=[5, 7],
            special_tokens={"bos_token": "<s>"},
            has_chat_template=True,
        )
        told = await route(registry)
        assert await extras_of(registry, told.extras_sha256) == made.serving.extras
        # The repo goes on; what serves does not follow it.
        hub.add_repo(REPO, adapter_files() | {"chat_template.jinja": b"another"})
        assert await route(registry) == told
        # An update looks at it again: the same weights with another template are another version.
        later = await updated(registry)
        assert later.serving.extras.chat_template == "another"
        assert (later.serving.digest, later.serving.number) == (made.serving.digest, 2)
        assert (await route(registry)).extras_sha256 != told.extras_sha256


async def test_a_list_leaves_the_templates_out_and_says_so(registry: Registry) -> None:
    await registry.create("pirate", REPO)
    async with running_worker(registry):
        await registry.until_state(NAME, pb.Deployment.STATE_RUNNING)
    response = await registry.deployments.ListDeployments(
        pb.ListDeploymentsRequest(), metadata=registry.account()
    )
    assert response.deployments[0].serving.extras == pb.RepoExtras(
        end_token_ids=[5, 7], has_chat_template=True
    )


async def test_its_owner_switches_to_the_bases_and_back(registry: Registry) -> None:
    async with running_worker(registry):
        made = await registry.create("pirate", REPO, use_base_template=True)
        assert made.use_base_template
        first = await registry.until_state(NAME, pb.Deployment.STATE_RUNNING)
        assert not first.serving.HasField("extras")
        assert (await route(registry)).extras_sha256 == ""
        with_it = await updated(registry, use_base_template=False)
        assert (with_it.use_base_template, with_it.serving.number) == (False, 2)
        assert with_it.serving.extras.chat_template == "{{ bos_token }}{{ messages }}"
        # What is not said stays.
        assert (await updated(registry)).serving == with_it.serving
        assert not (await updated(registry, use_base_template=True)).serving.HasField("extras")


async def test_a_broken_one_fails_by_name_and_the_way_out_works(registry: Registry, hub: LocalHub) -> None:
    hub.add_repo(REPO, adapter_files() | {"chat_template.jinja": b"{% for %}"})
    async with running_worker(registry):
        await registry.create("pirate", REPO)
        failed = await registry.until_state(NAME, pb.Deployment.STATE_FAILED)
        assert failed.failure.reason == "ADAPTER_CHAT_FILES_INVALID"
        assert failed.failure.metadata["field"] == "chat_template.jinja"
        await registry.deployments.UpdateDeployment(
            pb.UpdateDeploymentRequest(name=NAME, use_base_template=True), metadata=registry.account()
        )
        await registry.until_state(NAME, pb.Deployment.STATE_RUNNING)


async def test_it_is_there_after_a_restart(tmp_path: Path, hub: LocalHub) -> None:
    async with running(hub) as endpoint:
        async with running_registry(tmp_path, endpoint) as registry, running_worker(registry):
            await registry.create("pirate", REPO)
            made = await registry.until_state(NAME, pb.Deployment.STATE_RUNNING)
            told = await route(registry)
        async with running_registry(tmp_path, endpoint) as registry:
            assert await route(registry) == told
            assert await extras_of(registry, told.extras_sha256) == made.serving.extras


async def test_unknown_extras_are_not_found_and_strangers_are_not_let_in(registry: Registry) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await extras_of(registry, "0" * 64)
    assert isinstance(sdk.from_rpc_error(caught.value), sdk.NotFoundError)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await extras_of(registry, "x")
    assert isinstance(sdk.from_rpc_error(caught.value), sdk.InvalidArgumentError)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await registry.routing.GetRepoExtras(
            routing_pb2.GetRepoExtrasRequest(sha256="0" * 64), metadata=registry.workers.metadata()
        )
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
