"""Requests to a worker process: a real registry, a real hub, a miniature base, adapters fetched on demand."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from prometheus_client.parser import text_string_to_metric_families

from loramux import errors as sdk
from loramux.inference.v1 import inference_pb2
from loramux.worker.v1 import worker_pb2
from tests.support.models import CONTEXT_LENGTH
from tests.support.worker import WorkerClient, first_message, worker_client
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


async def test_n_choices_are_what_n_requests_with_those_seeds_would_be(
    world: World, client: WorkerClient
) -> None:
    adapter = world.on_hub()
    prompt = world.prompt("The quick brown fox jumps over the lazy dog, and the dog does not mind at all.")
    options: dict[str, Any] = {"temperature": 1.0, "max_tokens": 16, "ignore_eos": True}
    alone = [await client.answer(prompt, adapter, seed=7 + index, **options) for index in range(3)]
    texts, usage = ["", "", ""], None
    async for response in client.stream(prompt, adapter, seed=7, n=3, **options):
        if response.HasField("summary"):
            usage = response.summary
            assert [one.index for one in response.summary.choices] == [0, 1, 2]
        elif response.HasField("chunk"):
            texts[response.chunk.index] += response.chunk.text
    assert texts == [one.text for one in alone]
    assert len(set(texts)) == 3
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt), 48)
    assert usage.cached_tokens > 0  # the requests before had the same prompt


async def scraped(world: World) -> dict[tuple[str, str], float]:
    """Every sample of the worker's metrics, by name and digest."""

    def scrape() -> str:
        with urllib.request.urlopen(f"http://{world.metrics}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    families = text_string_to_metric_families(await asyncio.to_thread(scrape))
    return {
        (one.name, one.labels.get("digest", "")): one.value for family in families for one in family.samples
    }


async def test_metrics_count_what_a_request_did(world: World, client: WorkerClient) -> None:
    adapter = world.on_hub()
    prompt = world.prompt("All that a request does can be seen from outside, and costs it nothing at all.")
    before = await scraped(world)
    for _ in range(2):
        await client.answer(prompt, adapter, max_tokens=10, ignore_eos=True)
    await client.until_idle()
    after = await scraped(world)

    def grown(name: str) -> float:
        return after[f"loramux_worker_{name}", ""] - before[f"loramux_worker_{name}", ""]

    assert (grown("prompt_tokens_total"), grown("completion_tokens_total")) == (2 * len(prompt), 20)
    assert 0 < grown("cached_tokens_total") < len(prompt)  # of the second request
    assert (grown("adapter_requests_total"), grown("adapter_hits_total")) == (2, 1)
    assert (grown("adapter_load_seconds_count"), grown("queue_seconds_count")) == (1, 2)
    assert grown("step_seconds_count") == grown("step_sequences_sum") >= 20
    assert grown("adapter_load_seconds_sum") > 0
    assert after["loramux_worker_adapter_bytes", adapter.digest] > 0
    assert after["loramux_worker_adapter_pins", adapter.digest] == 0
    assert after["loramux_worker_running_sequences", ""] == after["loramux_worker_kv_blocks_held", ""] == 0


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


async def test_an_answer_that_another_worker_began_goes_on_with_penalties_and_stop_strings(
    world: World, client: WorkerClient
) -> None:
    adapter, prompt = world.on_hub(), world.prompt("The quick brown fox")
    options: dict[str, Any] = {
        "temperature": 1.0, "seed": 3, "frequency_penalty": 1.5, "max_tokens": 30, "ignore_eos": True,
    }  # fmt: skip
    whole = await client.answer(prompt, adapter, **options)
    stop = whole.text[-6:-2]
    cases: tuple[dict[str, Any], ...] = ({}, {"stop": [stop]})
    for more in cases:
        expected = await client.answer(prompt, adapter, **options, **more)
        cut = len(expected.token_ids) // 2
        texts: list[str] = []
        tokens: list[int] = []
        async for response in client.stream(prompt, adapter, **options, **more):
            # What a gateway has of a worker that goes away now.
            texts.append(response.chunk.text)
            tokens += response.chunk.token_ids
            if len(tokens) >= cut:
                break
        had = worker_pb2.ResumedChoice(
            index=0, token_ids=tokens, text_bytes_sent=len("".join(texts).encode())
        )
        rest = await client.answer(prompt, adapter, resumed=[had], **options, **more)
        assert "".join(texts) + rest.text == expected.text
        assert (*tokens, *rest.token_ids) == expected.token_ids
        assert rest.choice == expected.choice
        assert rest.usage.completion_tokens == expected.usage.completion_tokens
        assert rest.usage.prompt_tokens == len(prompt)
