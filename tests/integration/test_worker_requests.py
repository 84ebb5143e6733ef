"""Requests to a worker process: a real registry, a real hub, a miniature base, adapters fetched on demand."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tokenizers import Tokenizer

from loramux import errors as sdk
from loramux.fleet.v1 import fleet_pb2
from loramux.inference.v1 import inference_pb2
from loramux.localhub import LocalHub, Refuse, Tamper, running
from loramux.worker.v1 import worker_pb2
from services.worker.adapter_version import WEIGHTS
from tests.support.models import CONTEXT_LENGTH, write_random_adapter, write_tiny_base
from tests.support.worker import (
    WorkerClient,
    fill_weights,
    first_message,
    publish,
    registry_variables,
    running_service,
    worker_client,
    worker_variables,
)

# One pair of processes for the module; every test has adapters of its own.
pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("worker_requests")]


@dataclass
class World:
    """What the tests of this module share."""

    hub: LocalHub
    base: Path
    folder: Path
    address: str
    tokenizer: Tokenizer
    made: int = 0

    def adapter(self, *, rank: int = 4) -> Path:
        """A fresh random adapter on disk."""
        self.made += 1
        return write_random_adapter(
            self.folder / f"adapter-{self.made}", self.base, rank=rank, seed=self.made
        )

    def on_hub(self, *, private: bool = False) -> fleet_pb2.AdapterRef:
        """A fresh random adapter on the hub."""
        folder = self.adapter()
        return publish(self.hub, f"acme/{folder.name}", folder, private=private)

    def prompt(self, text: str = "The quick brown fox") -> list[int]:
        return self.tokenizer.encode(text).ids

    def files(self) -> set[str]:
        """What the worker keeps of adapters."""
        return {path.name for path in (self.folder / "cache" / "adapters").iterdir()} - {".lock"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("worker")
    base = write_tiny_base(folder / "base")
    hub = LocalHub(folder / "hub")
    with ExitStack() as stack:
        stack.callback(hub.close)
        endpoint = stack.enter_context(running(hub))
        registry = stack.enter_context(
            running_service("registry", registry_variables(folder, base, endpoint))
        )
        worker = stack.enter_context(
            running_service("worker", worker_variables(registry.address, endpoint, folder / "cache"))
        )
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        yield World(hub, base, folder, worker.address, tokenizer)


@pytest.fixture
async def client(world: World) -> AsyncIterator[WorkerClient]:
    async with worker_client(world.address) as client:
        yield client
    world.hub.fault = None


async def test_a_base_request_streams_chunks_and_then_one_summary(world: World, client: WorkerClient) -> None:
    prompt = world.prompt()
    answer = await client.answer(prompt, max_tokens=24, ignore_eos=True)
    assert len(answer.token_ids) == 24
    assert answer.text == world.tokenizer.decode(answer.token_ids)
    assert answer.choice.finish_reason == inference_pb2.FINISH_REASON_LENGTH
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), 24)


async def test_base_and_two_adapters_at_once_answer_as_each_does_alone(
    world: World, client: WorkerClient
) -> None:
    adapters = [None, world.on_hub(), world.on_hub()]
    prompts = [world.prompt("The quick"), world.prompt("What is the capital of France?")]
    alone = [
        await client.answer(prompt, adapter, max_tokens=32) for prompt in prompts for adapter in adapters
    ]
    together = await asyncio.gather(
        *(client.answer(prompt, adapter, max_tokens=32) for prompt in prompts for adapter in adapters)
    )
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert len({one.token_ids for one in alone[:3]}) == 3


async def test_requests_for_one_cold_adapter_share_one_download(world: World, client: WorkerClient) -> None:
    ref = world.on_hub()
    world.hub.requests.clear()
    answers = await asyncio.gather(*(client.answer(world.prompt(), ref) for _ in range(8)))
    assert len({answer.token_ids for answer in answers}) == 1
    fetched = [one for one in world.hub.requests if one.method == "GET" and one.repo_id == ref.hub_repo]
    assert len(fetched) == 2
    assert ref.digest in world.files()


async def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(
    world: World, client: WorkerClient
) -> None:
    whole = await client.answer(world.prompt(), max_tokens=40, ignore_eos=True)
    stop = whole.text[8:12]
    answer = await client.answer(world.prompt(), max_tokens=40, ignore_eos=True, stop=[stop])
    assert answer.text == whole.text[: whole.text.index(stop)]
    assert answer.choice.finish_reason == inference_pb2.FINISH_REASON_STOP
    assert answer.choice.stop == stop
    assert answer.usage.completion_tokens == len(answer.token_ids)
    assert answer.token_ids == whole.token_ids[: len(answer.token_ids)]
    assert stop in world.tokenizer.decode(answer.token_ids)
    await client.until_idle()


async def test_a_stop_token_ends_the_answer_and_is_not_counted(world: World, client: WorkerClient) -> None:
    whole = await client.answer(world.prompt(), max_tokens=20, ignore_eos=True)
    stop = whole.token_ids[5]
    before = whole.token_ids[: whole.token_ids.index(stop)]
    answer = await client.answer(world.prompt(), max_tokens=20, stop_token_ids=[stop])
    assert answer.token_ids == before
    assert answer.usage.completion_tokens == len(before)
    assert answer.choice.finish_reason == inference_pb2.FINISH_REASON_STOP


async def test_log_probabilities_come_with_every_token(world: World, client: WorkerClient) -> None:
    answer = await client.answer(world.prompt(), max_tokens=8, logprobs=3, ignore_eos=True)
    assert [one.token_id for one in answer.logprobs] == list(answer.token_ids)
    assert all(one.top[0].token_id == one.token_id and len(one.top) == 3 for one in answer.logprobs)


async def test_a_seeded_sample_is_repeatable(world: World, client: WorkerClient) -> None:
    first, again, other = [
        await client.answer(world.prompt(), seed=seed, temperature=1.0, max_tokens=24, ignore_eos=True)
        for seed in (7, 7, 8)
    ]
    assert first.token_ids == again.token_ids
    assert first.token_ids != other.token_ids


async def test_a_cancelled_stream_leaves_no_sequence_and_no_pin(world: World, client: WorkerClient) -> None:
    ref = world.on_hub()
    call = client.stream(world.prompt(), ref, max_tokens=CONTEXT_LENGTH - 100, ignore_eos=True)
    await first_message(call)
    stats = await client.stats()
    assert {one.digest: one.pins for one in stats.adapters}[ref.digest] == 1
    call.cancel()
    await client.until_idle()


async def test_many_cancelled_streams_leave_room_for_all(world: World, client: WorkerClient) -> None:
    ref = world.on_hub()
    calls = [
        client.stream(world.prompt(), adapter, max_tokens=200, ignore_eos=True)
        for adapter in [None, ref] * 10
    ]
    await asyncio.gather(*(first_message(call) for call in calls[::2]))
    for call in calls:
        call.cancel()
    await client.until_idle()
    assert (await client.answer(world.prompt(), ref)).token_ids


async def test_totals_count_what_was_told(world: World, client: WorkerClient) -> None:
    await client.until_idle()
    before = await client.stats()
    answer = await client.answer(world.prompt(), max_tokens=9, ignore_eos=True)
    after = await client.stats()
    assert after.prompt_tokens_total - before.prompt_tokens_total == answer.usage.prompt_tokens
    assert after.completion_tokens_total - before.completion_tokens_total == 9


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


@pytest.mark.parametrize(
    ("length", "max_tokens", "field"),
    [
        (0, 4, "prompt"),
        (CONTEXT_LENGTH, 4, "max_tokens"),
        (4, 0, "max_tokens"),
        (4, CONTEXT_LENGTH, "max_tokens"),
    ],
)
async def test_what_does_not_fit_is_a_bad_field(
    client: WorkerClient, length: int, max_tokens: int, field: str
) -> None:
    error = await client.refusal([5] * length, max_tokens=max_tokens)
    assert isinstance(error, sdk.InvalidArgumentError)
    assert [one.field for one in error.field_violations] == [field]


async def test_a_token_id_outside_the_vocabulary_is_a_bad_field(client: WorkerClient) -> None:
    assert isinstance(await client.refusal([4_000_000]), sdk.InvalidArgumentError)


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


async def test_a_call_without_the_secret_is_refused(world: World, client: WorkerClient) -> None:
    for metadata in ((), (("authorization", "Bearer " + "x" * 32),)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.stub.GetStats(worker_pb2.GetStatsRequest(), metadata=metadata)
        error = sdk.from_rpc_error(caught.value)
        assert isinstance(error, sdk.UnauthenticatedError)


async def test_health_and_reflection_answer_without_the_secret(world: World, client: WorkerClient) -> None:
    health = health_pb2_grpc.HealthStub(client.channel)
    name = "loramux.worker.v1.WorkerService"
    response = await health.Check(  # type: ignore[attr-defined]  # missing in its stubs
        health_pb2.HealthCheckRequest(service=name)
    )
    assert response.status == health_pb2.HealthCheckResponse.SERVING

    def listed() -> list[str]:
        with grpc.insecure_channel(world.address) as channel:
            return list(ProtoReflectionDescriptorDatabase(channel).get_services())

    assert name in await asyncio.to_thread(listed)
