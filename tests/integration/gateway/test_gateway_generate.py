"""A request through a whole gateway, between a real client and a scripted worker."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from loramux.account.v1 import account_pb2, usage_pb2
from loramux.deployment.v1 import deployment_pb2
from loramux.fleet.v1 import routing_pb2
from loramux.inference.v1 import chat_pb2, inference_pb2, sampling_pb2
from loramux.worker.v1 import worker_pb2
from tests.support.gateway import OPERATOR, answer, bearer, eventually, refusal, rig, started
from tests.support.gateway_registry import ScriptedRegistry, deployment_route
from tests.support.gateway_worker import Event, ScriptedWorker, chunk, summary

DIGEST = "d" * 64


async def test_an_answer_streams_and_ends_with_usage_cost_and_the_servers_id(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        got = await answer(r.call(member, text="hello", max_tokens=4, client_request_id="mine"))
        completion = got.completion
        assert (got.text, got.tokens, completion.model) == ("xxxx", 4, "tiny")
        assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (5, 4)
        assert completion.cost.total_pico_usd == 5 * 20 + 4 * 60
        assert completion.choices[0].finish_reason == inference_pb2.FINISH_REASON_LENGTH
        (record,) = await r.usage()
        assert (record.request_id, record.client_request_id) == (completion.request_id, "mine")
        assert record.outcome == usage_pb2.UsageRecord.OUTCOME_COMPLETED
        assert record.total_pico_usd == completion.cost.total_pico_usd
        assert (await r.account()).balance.available_pico_usd == 1_000_000 - 340


async def test_choices_share_the_prompt_and_pay_for_their_own_tokens(tmp_path: Path) -> None:
    reserved = []

    async def script(request: worker_pb2.GenerateRequest) -> AsyncIterator[Event]:
        reserved.append((await r.account()).balance.reserved_pico_usd)
        for index in range(request.sampling.n):
            yield worker_pb2.Chunk(index=index, text="x" * 4, token_ids=[120] * 4)
        whole = summary(request, 4 * request.sampling.n)
        yield worker_pb2.Summary(
            choices=[worker_pb2.Choice(index=index) for index in range(request.sampling.n)],
            prompt_tokens=whole.prompt_tokens,
            completion_tokens=whole.completion_tokens,
        )

    async with rig(tmp_path, workers=[ScriptedWorker(script)]) as r:
        got = await answer(r.call(await r.member(), text="hello", max_tokens=4, n=3))
        assert [choice.index for choice in got.completion.choices] == [0, 1, 2]
        assert got.completion.usage.completion_tokens == 12
        assert reserved == [5 * 20 + 12 * 60]
        assert got.completion.cost.total_pico_usd == 5 * 20 + 12 * 60
        assert (await r.account()).balance.reserved_pico_usd == 0


async def test_the_worker_gets_ids_sampling_account_and_request_id(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        sampling = sampling_pb2.SamplingParams(max_tokens=2, temperature=0.5, stop=["END"], logprobs=0)
        request = inference_pb2.GenerateRequest(
            model="tiny", tokens=inference_pb2.TokenPrompt(ids=[3, 257, 4]), sampling=sampling
        )
        got = await answer(r.inference.Generate(request, metadata=member.metadata))
        (seen,) = r.worker.requests
        assert list(seen.prompt_token_ids) == [3, 257, 4]
        assert (seen.account, seen.request_id) == ("acme", got.completion.request_id)
        assert not seen.HasField("adapter")
        assert seen.sampling.seed > 0
        seen.sampling.ClearField("seed")
        assert seen.sampling == worker_pb2.Sampling(
            max_tokens=2,
            temperature=0.5,
            top_p=1.0,
            repetition_penalty=1.0,
            n=1,
            stop=["END"],
            logprobs=0,
        )
        assert r.worker.metadata[0]["x-loramux-request-id"] == got.completion.request_id


async def test_a_deployment_runs_its_adapter_at_three_halves_of_the_price(tmp_path: Path) -> None:
    registry = ScriptedRegistry(deployments=[deployment_route("acme/pirate", digest=DIGEST)])
    async with rig(tmp_path, registry=registry) as r:
        member = await r.member()
        base = (await answer(r.call(member, "tiny"))).completion
        lora = (await answer(r.call(member, "acme/pirate"))).completion
        assert r.worker.requests[1].adapter == registry.deployments[0].adapter
        assert 2 * lora.cost.total_pico_usd == 3 * base.cost.total_pico_usd
        bill = await r.accounts.GetBill(account_pb2.GetBillRequest(), metadata=member.metadata)
        assert [(line.model, line.kind, line.requests, line.total_pico_usd) for line in bill.lines] == [
            ("acme/pirate", usage_pb2.BillLine.KIND_LORA, 1, 510),
            ("tiny", usage_pb2.BillLine.KIND_BASE, 1, 340),
        ]
        assert bill.total_pico_usd == 850


async def test_a_chat_is_rendered_with_the_bases_template(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        chat = chat_pb2.ChatPrompt(
            messages=[chat_pb2.ChatMessage(role="user", content=[chat_pb2.ContentPart(text="hi")])]
        )
        request = inference_pb2.GenerateRequest(
            model="tiny", chat=chat, sampling=sampling_pb2.SamplingParams(max_tokens=1)
        )
        await answer(r.inference.Generate(request, metadata=member.metadata))
        assert r.worker.requests[0].prompt_token_ids[0] == 256
        assert len(r.worker.requests[0].prompt_token_ids) == len("user:hi") + len("assistant:") + 3


async def test_chunks_arrive_as_the_worker_sent_them_and_when_it_sent_them(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    full = worker_pb2.Chunk(
        index=0,
        text="é",
        token_ids=[7, 8],
        logprobs=[
            worker_pb2.TokenLogprob(
                token_id=7,
                logprob=-0.5,
                text="\ufffd",
                bytes=b"\xc3",
                top=[worker_pb2.TopLogprob(token_id=9, logprob=-1, text="a", bytes=b"a")],
            )
        ],
    )

    async def script(request: worker_pb2.GenerateRequest) -> AsyncIterator[Event]:
        yield full
        await go_on.wait()
        yield chunk()
        yield summary(request, 3, cached=2)

    async with rig(tmp_path, workers=[ScriptedWorker(script)]) as r:
        call = r.call(await r.member())
        # The worker waits for us: nothing holds the first chunk back.
        first = await started(call)
        # The public message has the same fields under the same numbers.
        assert first == inference_pb2.Chunk.FromString(full.SerializeToString())
        go_on.set()
        got = await answer(call)
        assert got.completion.usage.cached_tokens == 2
        assert (await r.usage())[0].cached_tokens == 2


async def test_headers_are_not_sent_before_the_first_chunk(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def script(request: worker_pb2.GenerateRequest) -> AsyncIterator[Event]:
        await go_on.wait()
        yield chunk()
        yield summary(request, 1)

    async with rig(tmp_path, workers=[ScriptedWorker(script)]) as r:
        call = r.call(await r.member())
        headers = asyncio.ensure_future(call.initial_metadata())
        await r.worker.until_running(1)
        assert not headers.done()
        go_on.set()
        await headers
        await answer(call)


async def test_an_answer_of_no_tokens_costs_nothing(tmp_path: Path) -> None:
    async def script(request: worker_pb2.GenerateRequest) -> AsyncIterator[Event]:
        yield summary(request, 0)

    async with rig(tmp_path, workers=[ScriptedWorker(script)]) as r:
        got = await answer(r.call(await r.member()))
        assert got.completion.cost.total_pico_usd == 0
        (record,) = await r.usage()
        assert (record.total_pico_usd, record.outcome) == (0, usage_pb2.UsageRecord.OUTCOME_COMPLETED)


async def test_a_worker_that_counts_more_than_was_asked_for_charges_no_more_than_was_reserved(
    tmp_path: Path,
) -> None:
    async def script(request: worker_pb2.GenerateRequest) -> AsyncIterator[Event]:
        yield chunk(tokens=9)
        yield summary(request, 9)

    async with rig(tmp_path, workers=[ScriptedWorker(script)]) as r:
        got = await answer(r.call(await r.member(), max_tokens=4))
        assert got.completion.usage.completion_tokens == 4
        assert (await r.account()).balance.available_pico_usd == 1_000_000 - 340


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (inference_pb2.GenerateRequest(model="", text="x"), "model"),
        (inference_pb2.GenerateRequest(model="tiny"), "prompt"),
        (inference_pb2.GenerateRequest(model="tiny", text=""), "text"),
        (inference_pb2.GenerateRequest(model="tiny", chat=chat_pb2.ChatPrompt()), "chat.messages"),
        (inference_pb2.GenerateRequest(model="tiny", text="x" * 128), "text"),
        (inference_pb2.GenerateRequest(model="tiny", text="x", client_request_id="\n"), "client_request_id"),
        (
            inference_pb2.GenerateRequest(model="tiny", tokens=inference_pb2.TokenPrompt(ids=[258])),
            "tokens.ids[0]",
        ),
        (
            inference_pb2.GenerateRequest(
                model="tiny", text="x", sampling=sampling_pb2.SamplingParams(temperature=float("nan"))
            ),
            "sampling.temperature",
        ),
        (
            inference_pb2.GenerateRequest(
                model="tiny", text="x", sampling=sampling_pb2.SamplingParams(max_tokens=0)
            ),
            "sampling.max_tokens",
        ),
        (
            inference_pb2.GenerateRequest(
                model="tiny", text="x", sampling=sampling_pb2.SamplingParams(max_tokens=2**31 - 1)
            ),
            "sampling.max_tokens",
        ),
    ],
)
async def test_a_bad_field_is_named_and_nothing_is_held_or_recorded(
    tmp_path: Path, request_: inference_pb2.GenerateRequest, field: str
) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        error = await refusal(r.inference.Generate(request_, metadata=member.metadata))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [one.field for one in error.field_violations] == [field]
        assert error.metadata["bound"]
        assert error.retry_after is None
        assert r.worker.requests == []
        assert await r.usage() == []


async def test_keys_that_do_not_count_are_refused_on_every_service(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        keys = await r.accounts.ListKeys(account_pb2.ListKeysRequest(), metadata=member.metadata)
        request = inference_pb2.GenerateRequest(model="tiny", text="x")
        await answer(r.call(member))
        await r.accounts.RevokeKey(
            account_pb2.RevokeKeyRequest(name=keys.keys[0].name), metadata=member.metadata
        )
        for metadata, reason in (
            (None, "NO_KEY"),
            (bearer("lmx_wrong"), "KEY_INVALID"),
            (member.metadata, "KEY_REVOKED"),
        ):
            calls = (
                r.inference.Generate(request, metadata=metadata),
                r.accounts.GetAccount(account_pb2.GetAccountRequest(), metadata=metadata),
                r.deployments.ListBaseModels(deployment_pb2.ListBaseModelsRequest(), metadata=metadata),
            )
            for call in calls:
                error = await refusal(call)
                assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)


async def test_the_operators_key_generates_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        request = inference_pb2.GenerateRequest(model="tiny", text="x")
        error = await refusal(r.inference.Generate(request, metadata=OPERATOR))
        assert error.code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_foreign_deployment_is_refused_as_one_that_never_was(tmp_path: Path) -> None:
    registry = ScriptedRegistry(deployments=[deployment_route("rival/secret")])
    async with rig(tmp_path, registry=registry) as r:
        member = await r.member()
        foreign = await refusal(r.call(member, "rival/secret"))
        registry.send(routing_pb2.WatchRoutesResponse(removed_deployments=["uid-of-rival/secret"]))
        rival = await r.member("rival")

        async def is_gone() -> bool:
            return (await refusal(r.call(rival, "rival/secret"))).code is grpc.StatusCode.NOT_FOUND

        await eventually(is_gone)
        unknown = await refusal(r.call(member, "rival/secret"))
        assert foreign.code is unknown.code is grpc.StatusCode.NOT_FOUND
        assert (foreign.message, foreign.metadata) == (unknown.message, unknown.metadata)


async def test_without_a_worker_a_request_is_unavailable_and_free(tmp_path: Path) -> None:
    async with rig(tmp_path, workers=[]) as r:
        error = await refusal(r.call(await r.member()))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_WORKER")
        assert error.retry_after is not None
        assert await r.usage() == []
        assert (await r.account()).balance.reserved_pico_usd == 0
