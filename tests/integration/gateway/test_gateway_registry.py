"""The gateway and its registry: forwarded calls, and a registry that is away, comes late or comes back."""

import asyncio
from pathlib import Path

import grpc
import pytest

from loramux.deployment.v1 import deployment_pb2 as pb
from loramux.fleet.v1 import routing_pb2
from services.common import errors
from services.gateway.routes import Worker
from services.gateway.upstream import routing_client
from tests.support.gateway import (
    OPERATOR,
    OPERATOR_KEY,
    Call,
    answer,
    eventually,
    refusal,
    rig,
    started,
)
from tests.support.gateway_registry import ScriptedRegistry, deployment_route, serving_registry
from tests.support.gateway_worker import ScriptedWorker, stuck_after
from tests.support.secrets import DISPATCH_SECRET, GATEWAY_SECRET


async def test_every_call_is_forwarded_for_the_callers_account(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        calls = r.deployments
        metadata = member.metadata
        bases = await calls.ListBaseModels(pb.ListBaseModelsRequest(), metadata=metadata)
        assert [base.name for base in bases.base_models] == ["tiny"]
        create = pb.CreateDeploymentRequest(deployment_id="pirate", hub_repo="org/x", hub_token="hf_secret")
        made = await calls.CreateDeployment(create, metadata=metadata)
        assert made.deployment.name == "acme/pirate"
        await calls.GetDeployment(pb.GetDeploymentRequest(name="acme/pirate"), metadata=metadata)
        await calls.ListDeployments(pb.ListDeploymentsRequest(), metadata=metadata)
        await calls.UpdateDeployment(pb.UpdateDeploymentRequest(name="acme/pirate"), metadata=metadata)
        await calls.DeleteDeployment(pb.DeleteDeploymentRequest(name="acme/pirate"), metadata=metadata)
        seen = r.registry.forwarded
        assert [one.method for one in seen] == [
            "ListBaseModels",
            "CreateDeployment",
            "GetDeployment",
            "ListDeployments",
            "UpdateDeployment",
            "DeleteDeployment",
        ]
        assert {one.account for one in seen} == {"acme"}
        assert len({one.request_id for one in seen}) == 6
        assert seen[1].request == create


async def test_an_account_that_the_client_claims_is_ignored(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        metadata = (*member.metadata, ("x-loramux-account", "rival"))
        await r.deployments.ListDeployments(pb.ListDeploymentsRequest(), metadata=metadata)
        assert r.registry.forwarded[0].account == "acme"


async def test_a_watch_is_forwarded_message_by_message_until_the_client_leaves(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        watch = r.deployments.WatchDeployment(
            pb.WatchDeploymentRequest(name="acme/pirate"), metadata=member.metadata
        )
        for state in (pb.Deployment.STATE_INITIALIZING, pb.Deployment.STATE_RUNNING):
            message = pb.WatchDeploymentResponse(deployment=pb.Deployment(state=state))
            message.deployment.create_time.GetCurrentTime()
            message.deployment.update_time.GetCurrentTime()
            r.registry.watch_messages.put_nowait(message)
            assert await watch.read() == message
        watch.cancel()

        async def has_ended() -> bool:
            return r.registry.watches_open == 0

        await eventually(has_ended)


async def test_a_watch_ends_when_the_registry_ends_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        r.registry.watch_messages.put_nowait(None)
        watch = r.deployments.WatchDeployment(pb.WatchDeploymentRequest(name="x"), metadata=member.metadata)
        assert await watch.read() is grpc.aio.EOF
        assert await watch.code() is grpc.StatusCode.OK


async def test_a_drain_ends_watches_with_when_to_come_back(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        r.registry.watch_messages.put_nowait(pb.WatchDeploymentResponse())
        watch = r.deployments.WatchDeployment(pb.WatchDeploymentRequest(name="x"), metadata=member.metadata)
        await watch.read()
        await r.gateway.while_draining()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "stopping" in (caught.value.details() or "")


REFUSALS = [
    errors.NotFoundError("deployment", "acme/x"),
    errors.StaleEtagError("acme/x"),
    errors.InvalidFieldError("hub_repo", "", "org/name"),
    errors.PreconditionError("HUB_GATED", "org/x", "gated", {"repo": "org/x"}),
    errors.UnavailableError("HUB_UNREACHABLE", "the Hub is down", retry_after=3.0),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: error.reason)
async def test_a_registrys_refusal_reaches_the_client_word_for_word(
    tmp_path: Path, error: errors.ServiceError
) -> None:
    async with rig(tmp_path, registry=ScriptedRegistry(refusal=error)) as r:
        member = await r.member()
        get = r.deployments.GetDeployment(pb.GetDeploymentRequest(name="x"), metadata=member.metadata)
        watch = r.deployments.WatchDeployment(pb.WatchDeploymentRequest(name="x"), metadata=member.metadata)
        for got in (await refusal(get), await refusal(watch.read())):
            assert got.code.name == errors.status_of(error).grpc
            assert (got.message, got.reason, got.metadata) == (error.message, error.reason, error.metadata)
            assert got.retry_after == getattr(error, "retry_after", None)


async def test_the_operators_key_deploys_nothing(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        error = await refusal(r.deployments.ListDeployments(pb.ListDeploymentsRequest(), metadata=OPERATOR))
        assert error.code is grpc.StatusCode.PERMISSION_DENIED
        assert r.registry.forwarded == []


async def test_a_gateway_goes_on_with_what_it_knows_while_its_registry_is_away(tmp_path: Path) -> None:
    registry = ScriptedRegistry(deployments=[deployment_route("acme/pirate")])
    async with rig(tmp_path, registry=registry) as r:
        await registry.stop()
        member = await r.member()
        for model in ("tiny", "acme/pirate"):
            await answer(r.call(member, model))
        get = r.deployments.GetDeployment(pb.GetDeploymentRequest(name="x"), metadata=member.metadata)
        watch = r.deployments.WatchDeployment(pb.WatchDeploymentRequest(name="x"), metadata=member.metadata)
        for error in (await refusal(get), await refusal(watch.read())):
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "REGISTRY_UNREACHABLE")
            assert error.retry_after is not None


async def test_a_gateway_finds_a_registry_that_is_back(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    async with rig(tmp_path, registry=registry) as r:
        member = await r.member()
        await registry.stop()
        registry.deployments.append(deployment_route("acme/french"))
        async with serving_registry(registry, GATEWAY_SECRET, int(registry.address.rpartition(":")[2])):
            await eventually(lambda: succeeds(r.call(member, "acme/french")))


async def succeeds(call: Call) -> bool:
    try:
        await answer(call)
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_a_gateway_that_has_never_heard_from_its_registry_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.__main__._FIRST_ROUTES_SECONDS", 0.01)
    async with rig(tmp_path, silent=True) as r:
        member = await r.member()
        error = await refusal(r.call(member))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_ROUTES")
        r.registry.speaks.set()

        async def answers() -> bool:
            try:
                await answer(r.call(member))
            except grpc.aio.AioRpcError:
                return False
            return True

        await eventually(answers)


@pytest.mark.parametrize(
    ("route", "code", "reason"),
    [
        (
            deployment_route("acme/x", state=pb.Deployment.STATE_INITIALIZING, digest=""),
            grpc.StatusCode.UNAVAILABLE,
            "DEPLOYMENT_LOADING",
        ),
        (
            deployment_route("acme/x", state=pb.Deployment.STATE_DEPLOYING),
            grpc.StatusCode.UNAVAILABLE,
            "DEPLOYMENT_LOADING",
        ),
        (
            deployment_route(
                "acme/x",
                state=pb.Deployment.STATE_FAILED,
                failure_reason="HUB_REPO_NOT_FOUND",
                failure_message="no such repo",
            ),
            grpc.StatusCode.FAILED_PRECONDITION,
            "HUB_REPO_NOT_FOUND",
        ),
    ],
)
async def test_a_deployment_that_does_not_serve_says_why(
    tmp_path: Path, route: routing_pb2.DeploymentRoute, code: grpc.StatusCode, reason: str
) -> None:
    async with rig(tmp_path, registry=ScriptedRegistry(deployments=[route])) as r:
        error = await refusal(r.call(await r.member(), "acme/x"))
        assert (error.code, error.reason) == (code, reason)


async def test_an_update_moves_new_requests_over_while_old_streams_finish(tmp_path: Path) -> None:
    registry = ScriptedRegistry(deployments=[deployment_route("acme/x", digest="1" * 64)])
    async with rig(tmp_path, registry=registry, workers=[ScriptedWorker(stuck_after(1))]) as r:
        member = await r.member()
        old = r.call(member, "acme/x")
        await started(old)
        registry.send(
            routing_pb2.WatchRoutesResponse(deployments=[deployment_route("acme/x", digest="2" * 64)])
        )

        async def has_moved() -> bool:
            call = r.call(member, "acme/x")
            await started(call)
            call.cancel()
            return r.worker.requests[-1].adapter.digest == "2" * 64

        await eventually(has_moved)
        assert not old.done()
        assert r.worker.requests[0].adapter.digest == "1" * 64


async def test_secrets_do_not_reach_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        create = pb.CreateDeploymentRequest(deployment_id="x", hub_repo="org/x", hub_token="hf_abcdefghijk")
        await r.deployments.CreateDeployment(create, metadata=member.metadata)
        await refusal(r.call(member, "x" * 50, text="my private words"))
        await answer(r.call(member, text="my private words"))
        await asyncio.sleep(0)
    printed = "".join(capsys.readouterr())
    for secret in (
        member.key,
        OPERATOR_KEY,
        GATEWAY_SECRET,
        DISPATCH_SECRET,
        "hf_abcdefghijk",
        "private words",
    ):
        assert secret not in printed
    assert "request_ended" in printed


async def test_a_snapshot_in_parts_is_taken_in_whole(tmp_path: Path) -> None:
    """Between its parts nothing is missing: a client takes MODEL_NOT_FOUND for final."""
    registry = ScriptedRegistry(deployments=[deployment_route("acme/x")])
    async with rig(tmp_path, registry=registry) as r:
        member = await r.member()
        await answer(r.call(member, "acme/x"))
        first = routing_pb2.WatchRoutesResponse(
            snapshot=True, more=True, base_models=registry.base_models, workers=registry.workers
        )
        registry.send(first)
        for _ in range(3):
            await answer(r.call(member, "acme/x"))
        rest = routing_pb2.WatchRoutesResponse(snapshot=True, deployments=[deployment_route("acme/y")])
        registry.send(rest)

        async def has_swapped() -> bool:
            try:
                await answer(r.call(member, "acme/y", max_tokens=1))
            except grpc.aio.AioRpcError:
                return False
            return True

        await eventually(has_swapped)
        error = await refusal(r.call(member, "acme/x"))
        assert error.reason == "MODEL_NOT_FOUND"


async def test_one_odd_message_of_the_registry_does_not_end_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path) as r:
        member = await r.member()
        odd = routing_pb2.WatchRoutesResponse(
            workers=[routing_pb2.WorkerRoute(registration={"worker_id": "odd"})]
        )
        translate = routing_client._worker

        def break_on_odd(route: routing_pb2.WorkerRoute) -> Worker:
            if route.registration.worker_id == "odd":
                raise ValueError("nobody expected this")
            return translate(route)

        monkeypatch.setattr(routing_client, "_worker", break_on_odd)
        r.registry.send(odd)
        watched = r.registry.watchers[0]

        async def watches_again() -> bool:
            return bool(r.registry.watchers) and r.registry.watchers[0] is not watched

        await eventually(watches_again)
        assert (await answer(r.call(member))).tokens == 4
        assert not r.gateway.failed.done()
