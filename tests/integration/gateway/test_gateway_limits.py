"""Pools, rates and credit at a whole gateway."""

from pathlib import Path

import grpc
import pytest

from loramux import errors as sdk
from loramux.account.v1 import account_pb2, usage_pb2
from loramux.fleet.v1 import routing_pb2
from services.gateway.limits.limiter import LEASE_SECONDS, RENEW_SECONDS
from tests.support.gateway import Call, answer, eventually, refusal, rig, started
from tests.support.gateway_clock import ManualClock
from tests.support.gateway_registry import ScriptedRegistry, base_route, deployment_route
from tests.support.gateway_worker import ScriptedWorker, stuck_after


def deployments() -> ScriptedRegistry:
    return ScriptedRegistry(
        deployments=[
            deployment_route("acme/one", digest="1" * 64),
            deployment_route("acme/two", digest="2" * 64),
        ]
    )


async def details(call: Call) -> set[str]:
    """The kinds of details that a failed call carries."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answer(call)
    status = sdk.status_of(caught.value)
    assert status is not None
    return {detail.type_url.rpartition(".")[2] for detail in status.details}


async def test_request_n_plus_1_is_refused_with_when_to_retry_and_what_is_full(tmp_path: Path) -> None:
    async with rig(tmp_path, workers=[ScriptedWorker(stuck_after(1))]) as r:
        member = await r.member(limits=account_pb2.Limits(max_in_flight=3))
        held = [r.call(member) for _ in range(3)]
        for call in held:
            await started(call)
        error = await refusal(r.call(member))
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "POOL_FULL")
        assert error.retry_after is not None
        assert await details(r.call(member)) == {"ErrorInfo", "RequestInfo", "QuotaFailure", "RetryInfo"}
        assert len(r.worker.requests) == 3
        held[0].cancel()
        await eventually(lambda: starts(r.call(member)))
        assert (await refusal(r.call(member))).reason == "POOL_FULL"


async def starts(call: Call) -> bool:
    try:
        await started(call)
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_two_adapters_of_one_base_share_a_pool_and_the_base_has_its_own(tmp_path: Path) -> None:
    async with rig(tmp_path, registry=deployments(), workers=[ScriptedWorker(stuck_after(1))]) as r:
        member = await r.member(limits=account_pb2.Limits(max_in_flight=2))
        for model in ("acme/one", "acme/two", "tiny", "tiny"):
            await started(r.call(member, model))
        for model, pool in (("acme/one", "lora"), ("acme/two", "lora"), ("tiny", "base")):
            error = await refusal(r.call(member, model))
            assert error.metadata["subject"] == f"accounts/acme/base_models/tiny/{pool}"
        rival = await r.member("rival", limits=account_pb2.Limits(max_in_flight=2))
        await started(r.call(rival))


async def test_the_operators_default_pool_holds_where_an_account_has_none(tmp_path: Path) -> None:
    async with rig(tmp_path, workers=[ScriptedWorker(stuck_after(1))], max_in_flight=1) as r:
        member = await r.member()
        await started(r.call(member))
        assert (await refusal(r.call(member))).reason == "POOL_FULL"
        assert (await r.account()).effective_limits.max_in_flight == 1


async def test_the_request_rate_is_refused_with_its_own_reason(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member(limits=account_pb2.Limits(requests_per_minute=2))
        for _ in range(2):
            await answer(r.call(member))
        error = await refusal(r.call(member))
        assert error.reason == "REQUEST_RATE"
        assert error.retry_after is not None
        assert 20 < error.retry_after <= 30


async def test_a_request_above_the_token_rate_is_an_error_that_no_retry_helps(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member(limits=account_pb2.Limits(tokens_per_minute=30))
        error = await refusal(r.call(member, text="12345", max_tokens=26))
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ABOVE_LIMIT")
        assert error.retry_after is None
        assert await details(r.call(member, text="12345", max_tokens=26)) == {
            "ErrorInfo",
            "RequestInfo",
            "QuotaFailure",
        }
        await answer(r.call(member, text="12345", max_tokens=25))
        assert (await refusal(r.call(member))).reason == "TOKEN_RATE"


async def test_tokens_that_were_not_used_come_back(tmp_path: Path) -> None:
    async with rig(tmp_path, workers=[ScriptedWorker(stuck_after(1))]) as r:
        member = await r.member(limits=account_pb2.Limits(tokens_per_minute=100))
        call = r.call(member, text="12345", max_tokens=90)
        await started(call)
        assert (await refusal(r.call(member, max_tokens=50))).reason == "TOKEN_RATE"
        call.cancel()
        await r.idle()
        await started(r.call(member, text="12345", max_tokens=85))


async def test_tokens_count_while_they_are_produced_and_not_when_the_answer_ends(tmp_path: Path) -> None:
    """Field report F15: what a long answer produces keeps others out at once."""
    registry = ScriptedRegistry(base_models=[base_route(context=10_000)])
    async with rig(tmp_path, registry=registry, workers=[ScriptedWorker(stuck_after(3_000))]) as r:
        member = await r.member(credit=10**9, limits=account_pb2.Limits(tokens_per_minute=3_100))
        calls = [r.call(member, text="12345", max_tokens=8_000) for _ in range(2)]
        for call in calls:
            for _ in range(3_000):
                await started(call)
        error = await refusal(r.call(member, text="12345", max_tokens=1))
        assert error.reason == "TOKEN_RATE"
        assert error.retry_after is not None
        # 2 x 3,005 less what is debited last: below zero by about a minute's tokens.
        assert 50 < error.retry_after < 60
        for call in calls:
            call.cancel()
        await r.idle()
        assert [one.completion_tokens for one in await r.usage()] == [3_000, 3_000]


async def test_a_request_that_credit_does_not_cover_is_refused_and_holds_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member(credit=339, limits=account_pb2.Limits(max_in_flight=1, tokens_per_minute=100))
        for _ in range(30):
            error = await refusal(r.call(member, text="hello", max_tokens=4))
            assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_CREDIT")
        assert isinstance(error, sdk.NoCreditError)
        assert error.retry_after is None
        assert "PreconditionFailure" in await details(r.call(member))
        assert await r.usage() == []
        await answer(r.call(member, text="hello", max_tokens=3))


async def test_requests_in_flight_count_against_the_balance(tmp_path: Path) -> None:
    async with rig(tmp_path, workers=[ScriptedWorker(stuck_after(1))]) as r:
        member = await r.member(credit=2 * 340)
        calls = [r.call(member) for _ in range(2)]
        for call in calls:
            await started(call)
        assert (await refusal(r.call(member))).reason == "NO_CREDIT"
        account = await r.account()
        assert (account.balance.available_pico_usd, account.balance.reserved_pico_usd) == (0, 680)
        calls[0].cancel()

        async def is_settled() -> bool:
            return (await r.account()).balance.reserved_pico_usd == 340

        await eventually(is_settled)
        account = await r.account()
        assert (account.balance.available_pico_usd, account.balance.reserved_pico_usd) == (340 - 160, 340)


async def test_a_price_change_holds_for_requests_admitted_after_it(tmp_path: Path) -> None:
    async with rig(tmp_path, workers=[ScriptedWorker(stuck_after(1))]) as r:
        member = await r.member()
        before = r.call(member)
        await started(before)
        raised = base_route(prompt_price=200, completion_price=600)
        r.registry.send(routing_pb2.WatchRoutesResponse(base_models=[raised]))

        async def costs_more() -> bool:
            call = r.call(member)
            await started(call)
            call.cancel()
            await call.code()
            return any(record.price.prompt_pico_usd == 200 for record in await r.usage())

        await eventually(costs_more)
        before.cancel()
        await r.idle()
        first = min(await r.usage(), key=lambda record: record.start_time.ToNanoseconds())
        assert (first.price.prompt_pico_usd, first.total_pico_usd) == (20, 5 * 20 + 60)


async def test_a_long_stream_keeps_its_place_as_long_as_it_lasts(tmp_path: Path) -> None:
    clock = ManualClock()
    async with rig(tmp_path, workers=[ScriptedWorker(stuck_after(1))], clock=clock) as r:
        member = await r.member(limits=account_pb2.Limits(max_in_flight=1))
        await started(r.call(member))
        for _ in range(6):
            clock.advance(RENEW_SECONDS)
            await r.gateway.admissions.renew_all()
            assert (await refusal(r.call(member))).reason == "POOL_FULL"
        # Without renewal, as in a gateway that died, the place comes free.
        clock.advance(LEASE_SECONDS + 1)
        await started(r.call(member))


async def test_a_reservation_that_is_kept_is_not_taken_for_abandoned(tmp_path: Path) -> None:
    clock = ManualClock()
    async with rig(tmp_path, workers=[ScriptedWorker(stuck_after(2))], clock=clock) as r:
        member = await r.member()
        kept = r.call(member)
        for _ in range(2):
            await started(kept)
        clock.advance(LEASE_SECONDS + 1)
        await r.gateway.admissions.renew_all()
        await r.gateway.admissions.close_abandoned()
        assert (await r.account()).balance.reserved_pico_usd == 340
        # A gateway that stalls so long that another closed its request ends the stream, and charges no second time.
        clock.advance(LEASE_SECONDS + 1)
        await r.gateway.admissions.close_abandoned()
        assert (await r.account()).balance.reserved_pico_usd == 0
        kept.cancel()
        await r.idle()
        (record,) = await r.usage()
        assert (record.outcome, record.total_pico_usd) == (
            usage_pb2.UsageRecord.OUTCOME_CANCELLED,
            5 * 20 + 2 * 60,
        )
