"""What callers may ask of DeploymentService: fields, names, pages, retries, and whose a deployment is."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from loramux import errors as sdk
from loramux.deployment.v1 import deployment_pb2 as pb
from loramux.localhub import LocalHub, running
from loramux.type.v1.token_price_pb2 import TokenPrice
from services.common.internal import Metadata
from tests.support.registry import (
    BASE,
    HUB_ID,
    Registry,
    adapter_files,
    base_list,
    running_registry,
    write_base,
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


async def test_base_models_are_listed_with_both_prices(registry: Registry) -> None:
    response = await registry.deployments.ListBaseModels(
        pb.ListBaseModelsRequest(), metadata=registry.account()
    )
    (base,) = response.base_models
    assert (base.name, list(base.adapter_base_names), base.context_length, base.max_lora_rank) == (
        BASE,
        [HUB_ID],
        512,
        4,
    )
    assert base.commit.startswith("sha256:")
    assert base.price == TokenPrice(
        prompt_pico_usd=20_000, cached_prompt_pico_usd=20_000, completion_pico_usd=60_000
    )
    assert base.lora_price == TokenPrice(
        prompt_pico_usd=30_000, cached_prompt_pico_usd=30_000, completion_pico_usd=90_000
    )


async def test_foreign_and_unknown_names_are_refused_word_for_word_the_same(registry: Registry) -> None:
    await registry.create("pirate", REPO)
    service = registry.deployments
    name = "acme/pirate"

    def calls(account: Metadata) -> dict[str, Any]:  # Any: grpc's calls, each of its own type
        return {
            "get": service.GetDeployment(pb.GetDeploymentRequest(name=name), metadata=account),
            "update": service.UpdateDeployment(
                pb.UpdateDeploymentRequest(name=name, etag="x"), metadata=account
            ),
            "delete": service.DeleteDeployment(pb.DeleteDeploymentRequest(name=name), metadata=account),
            "watch": anext(
                aiter(service.WatchDeployment(pb.WatchDeploymentRequest(name=name), metadata=account))
            ),
        }

    foreign = {kind: await refusal(call) for kind, call in calls(registry.account("mallory")).items()}
    await service.DeleteDeployment(
        pb.DeleteDeploymentRequest(name="acme/pirate"), metadata=registry.account()
    )
    unknown = {kind: await refusal(call) for kind, call in calls(registry.account("acme")).items()}
    for kind, error in foreign.items():
        assert isinstance(error, sdk.NotFoundError)
        assert error.reason == "DEPLOYMENT_NOT_FOUND"
        assert (str(error), error.metadata) == (str(unknown[kind]), unknown[kind].metadata)


async def test_two_accounts_may_use_one_name(registry: Registry) -> None:
    first = await registry.create("pirate", REPO)
    second = await registry.create("pirate", REPO, account="other")
    assert (first.name, second.name) == ("acme/pirate", "other/pirate")
    error = await refusal(registry.create("pirate", REPO))
    assert isinstance(error, sdk.AlreadyExistsError)


async def test_a_field_out_of_bounds_is_named_with_its_bound_and_a_token_not_shown(
    registry: Registry,
) -> None:
    error = await refusal(registry.create("Pirate!", REPO))
    assert isinstance(error, sdk.InvalidArgumentError)
    (violation,) = error.field_violations
    assert violation.field == "deployment_id"
    assert "'Pirate!'; it must be 1 to 63 of" in violation.description
    error = await refusal(registry.create("pirate", REPO, hub_token="hf_secret with spaces"))
    assert error.field_violations[0].field == "hub_token"
    assert "secret" not in str(error.metadata) + error.message
    assert "hf_secret" not in "".join(registry.log)


async def test_names_and_pages_are_checked_too(registry: Registry) -> None:
    service, account = registry.deployments, registry.account()
    for name in ("", "pirate", "a/b/c", "acme/"):
        error = await refusal(service.GetDeployment(pb.GetDeploymentRequest(name=name), metadata=account))
        assert error.field_violations[0].field == "name"
    negative = await refusal(
        service.ListDeployments(pb.ListDeploymentsRequest(page_size=-1), metadata=account)
    )
    assert negative.field_violations[0].field == "page_size"
    forged = await refusal(
        service.ListDeployments(pb.ListDeploymentsRequest(page_token="cGlyYXRl"), metadata=account)
    )
    assert forged.field_violations[0].field == "page_token"


async def test_the_base_must_be_named_where_there_are_several(tmp_path: Path) -> None:
    folder = write_base(tmp_path / "base")
    (tmp_path / "bases.toml").write_text(
        base_list(folder) + base_list(folder, name="other", hub_ids=["org/Other"])
    )
    async with running_registry(tmp_path, "http://127.0.0.1:9") as registry:
        error = await refusal(registry.create("pirate", REPO))
        assert error.field_violations[0].field == "base_model"
        assert "tiny, other" in error.message
        assert (await registry.create("pirate", REPO, base_model="other")).base_model == "other"


async def test_pages_hold_every_deployment_once(registry: Registry) -> None:
    names = [f"d{number}" for number in range(5)]
    await asyncio.gather(*(registry.create(name, REPO) for name in reversed(names)))
    await registry.create("foreign", REPO, account="other")
    found, token, pages = [], "", 0
    while True:
        response = await registry.deployments.ListDeployments(
            pb.ListDeploymentsRequest(
                page_size=2, page_token=token, order=pb.ListDeploymentsRequest.ORDER_NAME
            ),
            metadata=registry.account(),
        )
        found += [one.name for one in response.deployments]
        pages += 1
        token = response.next_page_token
        if not token:
            break
    assert found == [f"acme/{name}" for name in names]
    assert pages == 3


async def test_one_account_s_page_token_does_not_fit_another(registry: Registry) -> None:
    for name in ("a", "b"):
        await registry.create(name, REPO)
    request = pb.ListDeploymentsRequest(page_size=1)
    token = (await registry.deployments.ListDeployments(request, metadata=registry.account())).next_page_token
    request.page_token = token
    error = await refusal(registry.deployments.ListDeployments(request, metadata=registry.account("mallory")))
    assert error.field_violations[0].field == "page_token"


class TestRetriedCreate:
    async def test_it_returns_what_the_first_made(self, registry: Registry) -> None:
        first = await registry.create("pirate", REPO, idempotency_key="r-1", hub_token=TOKEN)
        again = await registry.create("pirate", REPO, idempotency_key="r-1")
        assert again.uid == first.uid

    async def test_at_the_same_moment_only_one_is_made(self, registry: Registry) -> None:
        made = await asyncio.gather(
            *(registry.create("pirate", REPO, idempotency_key="r-1") for _ in range(8))
        )
        assert len({one.uid for one in made}) == 1

    async def test_with_other_fields_it_is_refused(self, registry: Registry) -> None:
        await registry.create("pirate", REPO, idempotency_key="r-1")
        error = await refusal(registry.create("parrot", REPO, idempotency_key="r-1"))
        assert error.field_violations[0].field == "idempotency_key"

    async def test_the_ids_of_two_accounts_are_apart(self, registry: Registry) -> None:
        first = await registry.create("pirate", REPO, idempotency_key="r-1")
        second = await registry.create("pirate", REPO, idempotency_key="r-1", account="other")
        assert first.uid != second.uid


class TestWhatIsToCome:
    MERGED = pb.DeploymentTarget(merged_model=pb.MergedModel())

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"target": MERGED}, "target.merged_model"),
        ],
    )
    async def test_it_is_refused_by_name(
        self, registry: Registry, fields: dict[str, Any], field: str
    ) -> None:
        error = await refusal(registry.create("pirate", REPO, **fields))
        assert (error.code, error.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")
        assert error.metadata["field"] == field
        made = await registry.create("pirate", REPO)
        update = pb.UpdateDeploymentRequest(name=made.name, **fields)
        error = await refusal(registry.deployments.UpdateDeployment(update, metadata=registry.account()))
        assert (error.reason, error.metadata["field"]) == ("NOT_IMPLEMENTED", field)

    async def test_what_says_the_default_passes_and_is_shown(self, registry: Registry) -> None:
        shared = pb.DeploymentTarget(shared_base=pb.SharedBase())
        made = await registry.create(
            "pirate", REPO, target=shared, use_base_template=False, accept_base_name=False
        )
        assert (made.target, made.use_base_template) == (shared, False)
        update = pb.UpdateDeploymentRequest(
            name=made.name, target=shared, use_base_template=False, accept_base_name=False
        )
        response = await registry.deployments.UpdateDeployment(update, metadata=registry.account())
        assert response.deployment.uid == made.uid

    async def test_so_are_versions_and_going_back(self, registry: Registry) -> None:
        made = await registry.create("pirate", REPO)
        service, account = registry.deployments, registry.account()
        for call, field in (
            (
                service.ListDeploymentVersions(
                    pb.ListDeploymentVersionsRequest(name=made.name), metadata=account
                ),
                "ListDeploymentVersions",
            ),
            (
                service.RollBackDeployment(
                    pb.RollBackDeploymentRequest(name=made.name, version=1), metadata=account
                ),
                "RollBackDeployment",
            ),
        ):
            error = await refusal(call)
            assert (error.reason, error.metadata["field"]) == ("NOT_IMPLEMENTED", field)
