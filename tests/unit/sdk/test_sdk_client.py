"""Everything but streams, of both clients, against a server that plays a script."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest

import loramux
from loramux import errors
from loramux.account.v1 import account_pb2
from loramux.deployment.v1 import deployment_pb2
from services.common import errors as service_errors
from tests.support.scripted_gateway import Pushback, Script, ScriptedGateway, chunk

UNAVAILABLE = Pushback(
    service_errors.UnavailableError("REGISTRY_DOWN", "the registry is down", retry_after=1.0), 1
)


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as gateway:
        yield gateway


@pytest.fixture
async def client(gateway: ScriptedGateway) -> AsyncIterator[loramux.Client]:
    async with loramux.Client(gateway.target, "lmx_test") as client:
        yield client


@pytest.fixture
def sync_client(gateway: ScriptedGateway) -> Iterator[loramux.SyncClient]:
    with loramux.SyncClient(gateway.target, "lmx_test") as client:
        yield client


def seen(state: deployment_pb2.Deployment.State, **fields: object) -> deployment_pb2.WatchDeploymentResponse:
    deployment = deployment_pb2.Deployment(name="acme/pirate", state=state, **fields)  # type: ignore[arg-type]
    return deployment_pb2.WatchDeploymentResponse(deployment=deployment)


FAILED = seen(
    deployment_pb2.Deployment.STATE_FAILED,
    failure=deployment_pb2.Failure(
        reason="RANK_ABOVE_CAP", message="rank is 128; it must be at most 64", metadata={"rank": "128"}
    ),
)


def test_both_clients_have_the_same_methods() -> None:
    def public(cls: type) -> set[str]:
        return {name for name in vars(cls) if not name.startswith("_")}

    assert public(loramux.Client) == public(loramux.SyncClient)


async def test_lists_read_every_page(gateway: ScriptedGateway, client: loramux.Client) -> None:
    gateway.on(
        "ListDeployments",
        [
            deployment_pb2.ListDeploymentsResponse(
                deployments=[{"name": "acme/a"}, {"name": "acme/b"}], next_page_token="2"
            )
        ],
        [deployment_pb2.ListDeploymentsResponse(deployments=[{"name": "acme/c"}])],
    )
    names = [one.name async for one in client.list_deployments(page_size=2)]
    assert names == ["acme/a", "acme/b", "acme/c"]
    assert [call.request.page_token for call in gateway.calls] == ["", "2"]
    assert gateway.calls[0].request.page_size == 2


def test_sync_lists_read_every_page_as_it_is_needed(
    gateway: ScriptedGateway, sync_client: loramux.SyncClient
) -> None:
    gateway.on(
        "ListUsage",
        [account_pb2.ListUsageResponse(records=[{"request_id": "1"}], next_page_token="2")],
        [account_pb2.ListUsageResponse(records=[{"request_id": "2"}])],
    )
    records = sync_client.list_usage(model="acme/pirate")
    assert next(records).request_id == "1"
    assert len(gateway.calls) == 1
    assert [one.request_id for one in records] == ["2"]
    assert gateway.calls[1].request.filter.model == "acme/pirate"


async def test_a_repeated_create_carries_one_idempotency_key(
    gateway: ScriptedGateway, client: loramux.Client
) -> None:
    done = deployment_pb2.CreateDeploymentResponse(deployment={"name": "acme/pirate"})
    gateway.on("CreateDeployment", [UNAVAILABLE], [done], [done])
    for _ in range(2):
        made = await client.create_deployment("pirate", "acme/pirate-lora", hub_token="hf_x")
        assert made.name == "acme/pirate"
    first, repeat, other = [call.request.idempotency_key for call in gateway.calls]
    assert first == repeat != ""
    assert other != first


async def test_a_change_that_has_no_idempotency_key_is_not_repeated(
    gateway: ScriptedGateway, client: loramux.Client
) -> None:
    gateway.on("DeleteDeployment", [UNAVAILABLE])
    with pytest.raises(errors.UnavailableError):
        await client.delete_deployment("acme/pirate")
    assert len(gateway.calls) == 1


async def test_an_update_tells_no_token_from_an_empty_one(
    gateway: ScriptedGateway, client: loramux.Client
) -> None:
    gateway.on("UpdateDeployment", *[[deployment_pb2.UpdateDeploymentResponse()]] * 2)
    await client.update_deployment("acme/pirate")
    await client.update_deployment("acme/pirate", hub_token="", etag="e1")
    keep, remove = [call.request for call in gateway.calls]
    assert not keep.HasField("hub_token")
    assert remove.HasField("hub_token")
    assert remove.etag == "e1"


async def test_waiting_ends_when_the_deployment_runs(
    gateway: ScriptedGateway, client: loramux.Client, sync_client: loramux.SyncClient
) -> None:
    script: Script = [
        seen(deployment_pb2.Deployment.STATE_INITIALIZING),
        seen(
            deployment_pb2.Deployment.STATE_RUNNING,
            candidate=deployment_pb2.AdapterVersion(hub_repo="acme/new"),
        ),
        seen(deployment_pb2.Deployment.STATE_RUNNING),
        threading.Event(),
    ]
    gateway.on("WatchDeployment", script, script)
    assert not (await client.wait_until_running("acme/pirate")).HasField("candidate")
    await asyncio.to_thread(sync_client.wait_until_running, "acme/pirate")
    for call in gateway.calls:
        assert await asyncio.to_thread(call.ended.wait, 10)


async def test_waiting_for_what_fails_says_why(
    gateway: ScriptedGateway, client: loramux.Client, sync_client: loramux.SyncClient
) -> None:
    gateway.on("WatchDeployment", [FAILED], [FAILED], [seen(deployment_pb2.Deployment.STATE_DELETED)])
    with pytest.raises(loramux.DeploymentFailedError, match="rank is 128") as caught:
        await client.wait_until_running("acme/pirate")
    assert caught.value.reason == "RANK_ABOVE_CAP"
    assert caught.value.metadata == {"rank": "128"}
    assert caught.value.deployment.name == "acme/pirate"
    with pytest.raises(loramux.DeploymentFailedError):
        await asyncio.to_thread(sync_client.wait_until_running, "acme/pirate")
    with pytest.raises(loramux.DeploymentFailedError, match="was deleted"):
        await client.wait_until_running("acme/pirate")


async def test_waiting_survives_a_watch_that_breaks(gateway: ScriptedGateway, client: loramux.Client) -> None:
    gateway.on(
        "WatchDeployment",
        [seen(deployment_pb2.Deployment.STATE_DEPLOYING), UNAVAILABLE],
        [seen(deployment_pb2.Deployment.STATE_RUNNING)],
    )
    await client.wait_until_running("acme/pirate")
    assert len(gateway.calls) == 2


async def test_waiting_gives_up_where_the_watch_never_gets_through(
    gateway: ScriptedGateway, client: loramux.Client
) -> None:
    gateway.on("WatchDeployment", *[[UNAVAILABLE]] * 4)
    with pytest.raises(errors.UnavailableError):
        await client.wait_until_running("acme/pirate")
    assert len(gateway.calls) == 4


async def test_waiting_has_a_deadline(gateway: ScriptedGateway, client: loramux.Client) -> None:
    gateway.on("WatchDeployment", [seen(deployment_pb2.Deployment.STATE_DEPLOYING), threading.Event()])
    with pytest.raises(errors.DeadlineExceededError):
        await client.wait_until_running("acme/pirate", timeout=0.05)


async def test_dropping_a_watch_ends_the_call(gateway: ScriptedGateway, client: loramux.Client) -> None:
    gateway.on("WatchDeployment", [seen(deployment_pb2.Deployment.STATE_DEPLOYING), threading.Event()])
    async for deployment in client.watch_deployment("acme/pirate"):
        assert deployment.state == deployment_pb2.Deployment.STATE_DEPLOYING
        break
    assert await asyncio.to_thread(gateway.calls[0].ended.wait, 10)


async def test_account_calls_carry_what_they_are_given(
    gateway: ScriptedGateway, client: loramux.Client
) -> None:
    gateway.on("CreateAccount", [account_pb2.CreateAccountResponse(account={"name": "acme"})])
    gateway.on("GrantCredit", [account_pb2.GrantCreditResponse(account={"name": "acme"})])
    gateway.on("CreateKey", [account_pb2.CreateKeyResponse(key={"name": "k1"}, secret="lmx_new")])
    gateway.on("GetBill", [account_pb2.GetBillResponse(total_pico_usd=5)])
    assert (await client.create_account("acme", credit_pico_usd=7, max_in_flight=2)).name == "acme"
    await client.grant_credit("acme", 9)
    assert (await client.create_key("laptop", account="acme")).secret == "lmx_new"
    assert (await client.get_bill(start=datetime(2026, 1, 1, tzinfo=UTC))).total_pico_usd == 5
    create, grant, key, bill = [call.request for call in gateway.calls]
    assert create.limits.max_in_flight == 2
    assert not create.limits.HasField("tokens_per_minute")
    assert grant.idempotency_key
    assert key.account == "acme"
    assert bill.start_time.ToDatetime(UTC) == datetime(2026, 1, 1, tzinfo=UTC)
    assert not bill.HasField("end_time")


async def test_wrong_key_and_unknown_name_are_typed(gateway: ScriptedGateway, client: loramux.Client) -> None:
    gateway.on("GetAccount", [service_errors.UnauthenticatedError("KEY_UNKNOWN", "the key is not known")])
    gateway.on("GetDeployment", [service_errors.NotFoundError("deployment", "acme/x")])
    with pytest.raises(errors.UnauthenticatedError):
        await client.get_account()
    with pytest.raises(errors.NotFoundError, match="no deployment named 'acme/x'"):
        await client.get_deployment("acme/x")


async def test_nobody_listening_is_unavailable() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{held.getsockname()[1]}"
        async with loramux.Client(target, "lmx_test") as client:
            with pytest.raises(errors.UnavailableError):
                await client.get_account()


async def test_closing_a_client_ends_its_calls_with_a_typed_error(
    gateway: ScriptedGateway, client: loramux.Client
) -> None:
    gateway.on("Generate", [chunk("a"), threading.Event()])
    gateway.on("GetAccount", [threading.Event()])
    tasks = [
        asyncio.create_task(client.generate("m", "p").text()),
        asyncio.create_task(client.get_account()),
    ]
    await asyncio.to_thread(gateway.wait_for_calls, 2)
    await client.close()
    for task in tasks:
        with pytest.raises(errors.LoramuxError):
            await task


def test_a_client_may_be_made_outside_of_the_loop_that_uses_it(gateway: ScriptedGateway) -> None:
    gateway.on("GetAccount", *[[account_pb2.GetAccountResponse(account={"name": "acme"})]] * 2)
    client = loramux.Client(gateway.target, "lmx_test")

    async def use() -> str:
        async with client:
            return (await client.get_account()).name

    assert [asyncio.run(use()) for _ in range(2)] == ["acme", "acme"]
