"""The table of routes and what a model's name stands for."""

import dataclasses

import pytest

from services.common.errors import NotFoundError, PreconditionError, UnavailableError
from services.gateway.billing.money import TokenPrice
from services.gateway.routes import (
    AdapterVersion,
    BaseModel,
    Deployment,
    DeploymentState,
    Failure,
    RouteTable,
    RouteUpdate,
    Worker,
)

BASE = BaseModel(name="org/base", commit="c", context_length=100, price=TokenPrice(2, 2, 4))
ADAPTER = AdapterVersion("d" * 64, "org/adapter", "c" * 40, "1" * 64, "2" * 64, 10, "uid")
DEPLOYMENT = Deployment(
    name="acme/pirate",
    uid="uid",
    account="acme",
    base_model="org/base",
    state=DeploymentState.RUNNING,
    failure=Failure("", ""),
    adapter=ADAPTER,
)
WORKER = Worker("w", "host:1", "org/base", 8, frozenset(), 0, 0, draining=False)


def table(*deployments: Deployment) -> RouteTable:
    routes = RouteTable()
    routes.apply(
        RouteUpdate(snapshot=True, base_models=[BASE], deployments=deployments, workers=[WORKER]),
    )
    return routes


def with_state(state: DeploymentState, **changes: object) -> Deployment:
    return dataclasses.replace(DEPLOYMENT, state=state, **changes)  # type: ignore[arg-type]  # named by the tests


def test_a_base_models_name_stands_for_the_base() -> None:
    target = table().resolve("org/base", "acme")
    assert (target.base, target.adapter) == (BASE, None)


def test_a_deployments_name_stands_for_its_adapter_on_its_base() -> None:
    target = table(DEPLOYMENT).resolve("acme/pirate", "acme")
    assert (target.model, target.base, target.adapter) == ("acme/pirate", BASE, ADAPTER)


@pytest.mark.parametrize(
    ("served", "context"), [((), 100), ((80, 0, 60), 60), ((0,), 100), ((1000,), 100)], ids=str
)
def test_the_context_is_what_every_worker_of_the_base_can_hold(served: tuple[int, ...], context: int) -> None:
    routes = RouteTable()
    workers = [
        dataclasses.replace(WORKER, id=f"w{place}", context_length=length)
        for place, length in enumerate(served)
    ]
    elsewhere = dataclasses.replace(WORKER, id="other", base_model="org/other", context_length=1)
    routes.apply(
        RouteUpdate(
            snapshot=True, base_models=[BASE], deployments=[DEPLOYMENT], workers=[*workers, elsewhere]
        )
    )
    for model in ("org/base", "acme/pirate"):
        assert routes.resolve(model, "acme").context_length == context


def test_an_unknown_and_a_foreign_model_are_refused_word_for_word_the_same() -> None:
    with pytest.raises(NotFoundError) as unknown:
        table().resolve("acme/pirate", "rival")
    with pytest.raises(NotFoundError) as foreign:
        table(DEPLOYMENT).resolve("acme/pirate", "rival")
    with pytest.raises(NotFoundError) as deleted:
        table(with_state(DeploymentState.DELETED)).resolve("acme/pirate", "rival")
    assert unknown.value.args == foreign.value.args == deleted.value.args
    assert unknown.value.metadata == foreign.value.metadata == deleted.value.metadata


@pytest.mark.parametrize("state", [DeploymentState.LOADING, DeploymentState.FAILED])
def test_a_foreign_deployments_state_does_not_show(state: DeploymentState) -> None:
    with pytest.raises(NotFoundError):
        table(with_state(state)).resolve("acme/pirate", "rival")


@pytest.mark.parametrize(
    "deployment",
    [
        with_state(DeploymentState.LOADING),
        with_state(DeploymentState.LOADING, adapter=None),
        with_state(DeploymentState.RUNNING, adapter=None),
        with_state(DeploymentState.RUNNING, base_model="not here yet"),
    ],
)
def test_a_deployment_that_does_not_serve_yet_is_unavailable(deployment: Deployment) -> None:
    with pytest.raises(UnavailableError) as caught:
        table(deployment).resolve("acme/pirate", "acme")
    assert caught.value.reason == "DEPLOYMENT_LOADING"


def test_a_failed_deployment_says_why() -> None:
    failure = Failure("HUB_REPO_NOT_FOUND", "no such repo")
    with pytest.raises(PreconditionError) as caught:
        table(with_state(DeploymentState.FAILED, failure=failure)).resolve("acme/pirate", "acme")
    error = caught.value
    assert (error.reason, error.message) == (failure.reason, failure.message)


def test_nothing_is_known_before_the_registry_speaks() -> None:
    with pytest.raises(UnavailableError) as caught:
        RouteTable().resolve("org/base", "acme")
    assert caught.value.reason == "NO_ROUTES"


def test_a_snapshot_replaces_everything() -> None:
    routes = table(DEPLOYMENT)
    routes.apply(RouteUpdate(snapshot=True))
    assert list(routes.workers()) == []
    with pytest.raises(NotFoundError):
        routes.resolve("acme/pirate", "acme")
    with pytest.raises(NotFoundError):
        routes.resolve("org/base", "acme")


def test_changes_are_merged_in() -> None:
    routes = table()
    busy = dataclasses.replace(WORKER, running=5)
    routes.apply(RouteUpdate(snapshot=False, deployments=[DEPLOYMENT], workers=[busy]))
    assert routes.resolve("acme/pirate", "acme").adapter == ADAPTER
    assert list(routes.workers()) == [busy]
    routes.apply(RouteUpdate(snapshot=False, removed_deployments=["uid"], removed_workers=["w"]))
    assert list(routes.workers()) == []
    with pytest.raises(NotFoundError):
        routes.resolve("acme/pirate", "acme")


def test_a_name_that_passes_to_another_deployment_survives_the_removal_of_the_first() -> None:
    routes = table(DEPLOYMENT)
    heir = dataclasses.replace(DEPLOYMENT, uid="heir")
    routes.apply(RouteUpdate(snapshot=False, deployments=[heir]))
    routes.apply(RouteUpdate(snapshot=False, removed_deployments=["uid"]))
    assert routes.resolve("acme/pirate", "acme").adapter == ADAPTER


def test_a_base_models_name_wins_over_a_deployment_of_the_same_name() -> None:
    routes = table(dataclasses.replace(DEPLOYMENT, name="org/base", account="org"))
    assert routes.resolve("org/base", "org").adapter is None
