"""Who may call which of the registry's services: a secret for each role, and it opens nothing else."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from loramux import errors as sdk
from loramux.deployment.v1 import deployment_pb2 as pb
from loramux.fleet.v1 import fleet_pb2, routing_pb2
from loramux.localhub import LocalHub, running
from services.common.internal import InternalCalls
from tests.support.registry import (
    BASE,
    Registry,
    adapter_files,
    running_registry,
)
from tests.support.secrets import DISPATCH_SECRET

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


async def refusal(call: Any) -> sdk.LoramuxError:  # Any: a call or a coroutine
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return sdk.from_rpc_error(caught.value)


class TestDoors:
    async def test_calls_need_the_secret_and_an_account(self, registry: Registry) -> None:
        service = registry.deployments
        error = await refusal(service.ListDeployments(pb.ListDeploymentsRequest()))
        assert (type(error), error.reason) == (sdk.UnauthenticatedError, "INTERNAL_SECRET_WRONG")
        error = await refusal(
            service.ListDeployments(pb.ListDeploymentsRequest(), metadata=registry.gateways.metadata())
        )
        assert (type(error), error.reason) == (sdk.UnauthenticatedError, "NO_ACCOUNT")

    async def test_each_role_s_secret_opens_its_own_services_only(self, registry: Registry) -> None:
        dispatch = InternalCalls(DISPATCH_SECRET).metadata(account="acme")
        workers = registry.workers.metadata(account="acme")
        gateways = registry.gateways.metadata(account="acme")
        wrong: list[Any] = []  # Any: grpc's calls, each of its own type
        for metadata in (workers, dispatch):
            deployments, routing = registry.deployments, registry.routing
            wrong += [
                deployments.ListDeployments(pb.ListDeploymentsRequest(), metadata=metadata),
                deployments.ListBaseModels(pb.ListBaseModelsRequest(), metadata=metadata),
                anext(aiter(routing.WatchRoutes(routing_pb2.WatchRoutesRequest(), metadata=metadata))),
                anext(aiter(routing.GetTokenizer(routing_pb2.GetTokenizerRequest(), metadata=metadata))),
            ]
        for metadata in (gateways, dispatch):
            wrong += [
                registry.fleet.GetBaseModel(fleet_pb2.GetBaseModelRequest(name=BASE), metadata=metadata),
                registry.fleet.GetHubToken(fleet_pb2.GetHubTokenRequest(), metadata=metadata),
                anext(aiter(registry.fleet.Register(iter(()), metadata=metadata))),
            ]
        for call in wrong:
            error = await refusal(call)
            assert (type(error), error.reason) == (sdk.UnauthenticatedError, "INTERNAL_SECRET_WRONG")

    @pytest.mark.parametrize(
        ("uid", "digest", "field"),
        [
            ("x" * 100_000, "0" * 64, "deployment_uid"),
            ("0" * 32, "0" * 63, "adapter_digest"),
            ("0" * 32, "", "adapter_digest"),
        ],
    )
    async def test_what_a_worker_asks_a_token_for_is_bounded(
        self, registry: Registry, uid: str, digest: str, field: str
    ) -> None:
        error = await refusal(registry.hub_token(uid, digest))
        assert [one.field for one in error.field_violations] == [field]
