"""Adapters that a worker process fetches and loads on demand, and those that it refuses."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from loramux import errors as sdk
from loramux.localhub import Refuse, Tamper
from services.common.adapters.version import WEIGHTS
from tests.support.worker import WorkerClient, fill_weights, publish, worker_client
from tests.support.worker_world import World, running_world

# One pair of processes for the module; every test has adapters of its own.
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
async def client(world: World) -> AsyncIterator[WorkerClient]:
    async with worker_client(world.address) as client:
        yield client
    world.hub.fault = None


async def test_requests_for_one_cold_adapter_share_one_download(world: World, client: WorkerClient) -> None:
    ref = world.on_hub()
    world.hub.requests.clear()
    answers = await asyncio.gather(*(client.answer(world.prompt(), ref) for _ in range(8)))
    assert len({answer.token_ids for answer in answers}) == 1
    fetched = [one for one in world.hub.requests if one.method == "GET" and one.repo_id == ref.hub_repo]
    assert len(fetched) == 2
    assert ref.digest in world.files()


async def test_tampered_weights_of_the_same_size_are_refused(world: World, client: WorkerClient) -> None:
    ref = world.on_hub()
    world.hub.fault = lambda request: Tamper() if request.path == WEIGHTS else None
    before = world.files()
    error = await client.refusal(world.prompt(), ref)
    assert isinstance(error, sdk.FailedPreconditionError)
    assert error.reason == "ADAPTER_TAMPERED"
    assert world.files() == before


async def test_a_hub_that_is_down_can_be_tried_again(world: World, client: WorkerClient) -> None:
    ref = world.on_hub()
    before = world.files()
    world.hub.fault = lambda _request: Refuse(503)
    error = await client.refusal(world.prompt(), ref)
    assert isinstance(error, sdk.UnavailableError)
    assert error.reason == "HUB_UNREACHABLE"
    assert error.retry_after is not None
    assert world.files() == before
    assert (await client.answer(world.prompt())).token_ids
    world.hub.fault = None
    assert (await client.answer(world.prompt(), ref)).token_ids


async def test_a_resident_adapter_needs_no_hub(world: World, client: WorkerClient) -> None:
    ref = world.on_hub()
    first = await client.answer(world.prompt(), ref)
    world.hub.fault = lambda _request: Refuse(503)
    assert await client.answer(world.prompt(), ref) == first


async def test_a_private_adapter_without_a_token_says_what_to_do(world: World, client: WorkerClient) -> None:
    ref = world.on_hub(private=True)
    error = await client.refusal(world.prompt(), ref)
    assert isinstance(error, sdk.FailedPreconditionError)
    assert error.reason == "HUB_REPO_PRIVATE"
    assert "Hub token" in error.message


async def test_an_unknown_deployment_s_token_is_refused_and_nothing_is_fetched(
    world: World, client: WorkerClient
) -> None:
    ref = world.on_hub(private=True)
    ref.deployment_uid = "no-such-deployment"
    world.hub.requests.clear()
    error = await client.refusal(world.prompt(), ref)
    assert isinstance(error, sdk.FailedPreconditionError)
    assert not [one for one in world.hub.requests if one.repo_id == ref.hub_repo]


async def test_a_load_brings_an_adapter_in_and_runs_it(world: World, client: WorkerClient) -> None:
    ref = world.on_hub()
    await client.load(ref)
    stats = await client.stats()
    assert ref.digest in {one.digest for one in stats.adapters}
    await client.until_idle()


async def test_a_load_without_an_adapter_is_a_bad_field(client: WorkerClient) -> None:
    assert isinstance(await client.load_refusal(None), sdk.InvalidArgumentError)


async def test_an_adapter_of_another_shape_is_refused_and_leaves_no_files(
    world: World, client: WorkerClient
) -> None:
    folder = world.adapter()
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 4', '"r": 5'))
    ref = publish(world.hub, f"acme/{folder.name}", folder)
    error = await client.load_refusal(ref)
    assert isinstance(error, sdk.InvalidArgumentError)
    assert error.reason == "ADAPTER_TENSORS_INVALID"
    assert ref.digest not in world.files()
    await client.until_idle()


@pytest.mark.parametrize("value", ["nan", "3e38"])
async def test_an_adapter_that_makes_no_numbers_is_refused_and_leaves_no_files(
    world: World, client: WorkerClient, value: str
) -> None:
    folder = world.adapter()
    fill_weights(folder / WEIGHTS, float(value))
    ref = publish(world.hub, f"acme/{folder.name}", folder)
    error = await client.load_refusal(ref)
    assert isinstance(error, sdk.InvalidArgumentError)
    assert error.reason in {"ADAPTER_TENSORS_INVALID", "ADAPTER_NOT_FINITE"}
    assert ref.digest not in world.files()
    await client.until_idle()
    assert (await client.answer(world.prompt())).token_ids
