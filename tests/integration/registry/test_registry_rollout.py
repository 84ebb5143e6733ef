"""Rollouts in this process: what the registry process does, with pauses short enough to see the long run."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from loramux.localhub import LocalHub, running
from services.common.clock import SystemClock
from services.common.database import open_database
from services.common.errors import PreconditionError, ServiceError
from services.common.templates.template_sandbox import TemplateSandbox
from services.registry.__main__ import MIGRATIONS
from services.registry.admission.adapter_admission import Admission
from services.registry.bases.base_list import read_base_list
from services.registry.bases.source_files import resolve_base
from services.registry.deployments.book import DeploymentBook
from services.registry.deployments.changes import Changes
from services.registry.deployments.deployment import Deployment, State
from services.registry.deployments.list_query import ListQuery
from services.registry.deployments.operations import Deployments
from services.registry.deployments.request_fields import CreateRequest, UpdateRequest
from services.registry.deployments.rollout import (
    LoadBrokeError,
    LoadOrder,
    LoadRefusedError,
    Rollouts,
    WorkerLostError,
)
from services.registry.deployments.sealing import Sealer
from services.registry.fleet.fleet import Fleet, Lease
from services.registry.fleet.route_log import Routes
from services.registry.fleet.worker import Registration, Report
from services.registry.hub_reader import HubReader
from services.registry.storage.store import Store
from tests.support.registry import BASE, adapter_files, base_list, write_base

REPO = "acme/adapter"
Load = Callable[[str, LoadOrder], Awaitable[None]]


async def accept(_address: str, _order: LoadOrder) -> None:
    """Loads everything."""


class Script:
    """What the workers do, and who was asked."""

    def __init__(self) -> None:
        self.load: Load = accept
        self.calls: list[str] = []

    async def __call__(self, address: str, order: LoadOrder) -> None:
        self.calls.append(address)
        await self.load(address, order)


class Bench:
    """The registry without its servers."""

    def __init__(
        self, deployments: Deployments, rollouts: Rollouts, fleet: Fleet, commit: str, script: Script
    ) -> None:
        self.deployments = deployments
        self.rollouts = rollouts
        self.fleet = fleet
        self.commit = commit
        self.script = script

    def register(self, name: str, report: Report | None = None) -> Lease:
        lease = self.fleet.register(Registration(name, name, BASE, self.commit, 8, 4))
        lease.report(report or Report())
        return lease

    async def create(self) -> None:
        request = CreateRequest(
            deployment_id="pirate",
            hub_repo=REPO,
            revision="",
            hub_token="",
            base_model="",
            idempotency_key="",
        )
        await self.deployments.create("acme", request)

    async def until(self, met: Callable[[Deployment], bool]) -> Deployment:
        found: list[Deployment] = []

        async def show(one: Deployment) -> None:
            if met(one):
                found.append(one)
                raise EOFError

        with pytest.raises(EOFError):
            await asyncio.wait_for(self.deployments.watch("acme", "acme/pirate", show), 30)
        return found[0]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    hub = LocalHub(tmp_path / "hub")
    hub.add_repo(REPO, adapter_files())
    (tmp_path / "bases.toml").write_text(base_list(write_base(tmp_path / "base")))
    engine = await open_database(f"sqlite+aiosqlite:///{tmp_path / 'r.db'}", MIGRATIONS)
    async with running(hub) as endpoint:
        reader = HubReader(endpoint, patience=0)
        base = await resolve_base(read_base_list(tmp_path / "bases.toml")[0], reader, "")
        routes, changes, clock, sealer = Routes([base]), Changes(), SystemClock(), Sealer(bytes(32))
        script = Script()
        fleet, store = Fleet({BASE: base}, routes, clock), Store(engine)
        book = DeploymentBook(store, routes, changes, clock)
        rollouts = Rollouts(
            store=store,
            book=book,
            admission=Admission(reader, TemplateSandbox(), max_bytes=10**6),
            fleet=fleet,
            load=script,
            base_models={BASE: base},
            sealer=sealer,
            first_pause=0.001,
        )
        deployments = Deployments(
            store=store,
            book=book,
            rollouts=rollouts,
            changes=changes,
            base_models={BASE: base},
            sealer=sealer,
        )
        yield Bench(deployments, rollouts, fleet, base.commit, script)
        await rollouts.stop()
        await book.close()
    await engine.dispose()
    hub.close()


async def test_an_adapter_that_kills_every_worker_fails_in_the_end(bench: Bench) -> None:
    async def die(_address: str, _order: LoadOrder) -> None:
        raise WorkerLostError("connection reset")

    bench.script.load = die
    for name in ("w1", "w2"):
        bench.register(name)
    await bench.create()
    failed = await bench.until(lambda one: one.state is State.FAILED)
    assert failed.failure is not None
    assert failed.failure.reason == "WORKERS_LOST"
    assert len(bench.script.calls) == 8
    assert set(bench.script.calls) == {"w1", "w2"}


@pytest.mark.parametrize("workers", [["w1", "w2", "w3"], ["w1"]])
async def test_an_adapter_that_workers_break_over_fails_with_the_second(
    bench: Bench, workers: list[str]
) -> None:
    async def break_over_it(_address: str, _order: LoadOrder) -> None:
        raise LoadBrokeError(PreconditionError("ADAPTER_LOAD_FAILED", "d", "OverflowError", {"digest": "d"}))

    bench.script.load = break_over_it
    for name in workers:
        bench.register(name)
    await bench.create()
    failed = await bench.until(lambda one: one.state is State.FAILED)
    assert failed.failure is not None
    assert failed.failure.reason == "ADAPTER_LOAD_FAILED"
    assert failed.failure.metadata == {"digest": "d"}
    assert len(bench.script.calls) == 2
    assert len(set(bench.script.calls)) == min(2, len(workers))


async def test_one_worker_that_breaks_over_it_is_not_the_adapters_end(bench: Bench) -> None:
    async def break_once(_address: str, _order: LoadOrder) -> None:
        if len(bench.script.calls) == 1:
            raise LoadBrokeError(PreconditionError("ADAPTER_LOAD_FAILED", "d", "OSError"))

    bench.script.load = break_once
    bench.register("w1")
    bench.register("w2", Report(running_sequences=5))
    await bench.create()
    await bench.until(lambda one: one.state is State.RUNNING)
    assert bench.script.calls == ["w1", "w2"]


async def test_a_lost_worker_is_not_the_first_to_be_asked_again(bench: Bench) -> None:
    async def die_once(_address: str, _order: LoadOrder) -> None:
        if len(bench.script.calls) == 1:
            raise WorkerLostError("connection reset")

    bench.script.load = die_once
    bench.register("w1")
    bench.register("w2", Report(running_sequences=5))
    await bench.create()
    await bench.until(lambda one: one.state is State.RUNNING)
    assert bench.script.calls == ["w1", "w2"]


async def test_a_worker_whose_lease_ends_does_not_hold_up_the_load(bench: Bench) -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(address: str, _order: LoadOrder) -> None:
        if address == "mute":
            asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    bench.script.load = hang
    mute = bench.register("mute")
    await bench.create()
    await asked.wait()
    mute.close()
    bench.register("heir")
    await bench.until(lambda one: one.state is State.RUNNING)
    assert cancelled.is_set()


async def test_a_defect_fails_the_deployment_and_shows_nothing(bench: Bench) -> None:
    async def break_down(_address: str, _order: LoadOrder) -> None:
        raise RuntimeError("password is hunter2")

    bench.script.load = break_down
    bench.register("w1")
    await bench.create()
    failed = await bench.until(lambda one: one.state is State.FAILED)
    assert failed.failure is not None
    assert failed.failure.reason == "INTERNAL"
    assert "hunter2" not in failed.failure.message


async def test_of_many_updates_the_last_one_wins_and_one_task_is_left(bench: Bench) -> None:
    bench.register("w1")
    await bench.create()
    await bench.until(lambda one: one.state is State.RUNNING)
    update = UpdateRequest()
    await asyncio.gather(*(bench.deployments.update("acme", "acme/pirate", update) for _ in range(20)))
    done = await bench.until(lambda one: not one.under_way)
    assert (done.state, done.failure) == (State.RUNNING, None)
    assert done.generation == 21


async def test_a_caller_that_leaves_in_the_middle_of_a_create_leaves_nothing_half_done(bench: Bench) -> None:
    creating = asyncio.create_task(bench.create())
    await asyncio.sleep(0)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    bench.register("w1")
    page, _ = await bench.deployments.list("acme", ListQuery())
    while not page:
        page, _ = await bench.deployments.list("acme", ListQuery())
    await bench.until(lambda one: one.state is State.RUNNING)


async def test_after_a_delete_no_task_is_left(bench: Bench) -> None:
    async def refuse(_address: str, _order: LoadOrder) -> None:
        raise LoadRefusedError(ServiceError("ADAPTER_TAMPERED", "differs"))

    bench.script.load = refuse
    await bench.create()
    await bench.deployments.delete("acme", "acme/pirate", "")
    assert bench.rollouts._tasks == {}
