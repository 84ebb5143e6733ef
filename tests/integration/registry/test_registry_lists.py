"""Lists of deployments: sorted, searched, narrowed to states, and pages that fit their own query only."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from loramux import errors as sdk
from loramux.deployment.v1 import deployment_pb2 as pb
from loramux.localhub import LocalHub, running
from tests.support.registry import (
    Registry,
    adapter_files,
    running_registry,
)

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


class TestLists:
    async def names(self, registry: Registry, **fields: Any) -> list[str]:  # Any: of a message
        response = await registry.deployments.ListDeployments(
            pb.ListDeploymentsRequest(**fields), metadata=registry.account()
        )
        return [one.name for one in response.deployments]

    async def test_they_can_be_sorted_searched_and_narrowed_to_states(self, registry: Registry) -> None:
        for name in ("bravo", "alpha", "charlie"):
            await registry.create(name, REPO)
        await registry.create("delta", "acme/Missing")
        await registry.until_state("acme/delta", pb.Deployment.STATE_FAILED)
        orders = pb.ListDeploymentsRequest
        made = ["acme/bravo", "acme/alpha", "acme/charlie", "acme/delta"]
        assert await self.names(registry) == made
        assert await self.names(registry, order=orders.ORDER_CREATE_TIME) == made
        assert await self.names(registry, order=orders.ORDER_CREATE_TIME_DESCENDING) == made[::-1]
        assert await self.names(registry, order=orders.ORDER_NAME) == sorted(made)
        assert await self.names(registry, search="CHAR") == ["acme/charlie"]
        assert await self.names(registry, search="missing") == ["acme/delta"]
        assert await self.names(registry, states=[pb.Deployment.STATE_FAILED]) == ["acme/delta"]
        assert await self.names(registry, states=[pb.Deployment.STATE_FAILED], search="alpha") == []

    async def test_a_page_token_fits_its_own_query_only(self, registry: Registry) -> None:
        for name in ("a", "b"):
            await registry.create(name, REPO)
        request = pb.ListDeploymentsRequest(page_size=1, search="acme")
        service, account = registry.deployments, registry.account()
        token = (await service.ListDeployments(request, metadata=account)).next_page_token
        request.page_token = token
        (second,) = (await service.ListDeployments(request, metadata=account)).deployments
        assert second.name == "acme/b"
        request.page_size = 2
        assert len((await service.ListDeployments(request, metadata=account)).deployments) == 1
        for changed in (
            pb.ListDeploymentsRequest(page_token=token),
            pb.ListDeploymentsRequest(page_token=token, search="acm"),
            pb.ListDeploymentsRequest(
                page_token=token, search="acme", order=pb.ListDeploymentsRequest.ORDER_NAME
            ),
            pb.ListDeploymentsRequest(page_token=token, search="acme", states=[pb.Deployment.STATE_RUNNING]),
        ):
            error = await refusal(service.ListDeployments(changed, metadata=account))
            assert error.field_violations[0].field == "page_token"

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"search": "x" * 129}, "search"),
            ({"search": "é" * 65}, "search"),
            ({"states": [0]}, "states"),
            ({"states": [99]}, "states"),
            ({"states": [3] * 100_000}, "states"),
            ({"order": 99}, "order"),
            ({"page_token": "x" * 100_000}, "page_token"),
        ],
    )
    async def test_what_is_out_of_bounds_is_named(
        self, registry: Registry, fields: dict[str, Any], field: str
    ) -> None:
        request = pb.ListDeploymentsRequest(**fields)
        error = await refusal(registry.deployments.ListDeployments(request, metadata=registry.account()))
        assert [one.field for one in error.field_violations] == [field]
