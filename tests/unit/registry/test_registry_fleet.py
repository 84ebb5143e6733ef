"""Leases and routes, with the clock in hand."""

import asyncio
from datetime import UTC, datetime

import pytest

from services.common.errors import InvalidFieldError, PreconditionError, UnavailableError
from services.registry.bases.base_model import BaseModel, Price, Tokenizer
from services.registry.deployments.deployment import Adapter, Deployment, State
from services.registry.fleet.fleet import OVERDUE, REPORT_INTERVAL, Fleet
from services.registry.fleet.route_log import Routes
from services.registry.fleet.worker import Registration, Report, Worker

BASE = BaseModel(
    name="tiny",
    hub_ids=("org/Tiny",),
    local_path="/base",
    hub_repo="",
    commit="c0ffee",
    context_length=512,
    max_lora_rank=64,
    target_modules=("q_proj",),
    price=Price(2, 2),
    modules={},
    tokenizer=Tokenizer(b"", "", {}),
)
LEASE = REPORT_INTERVAL + OVERDUE


class HandClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds


def registration(
    worker_id: str = "w1", *, base_commit: str = "c0ffee", base_model: str = "tiny"
) -> Registration:
    return Registration(worker_id, f"{worker_id}:1", base_model, base_commit, 8, 4)


def deployment(uid: str = "u1", *, version: int = 1, state: State = State.RUNNING) -> Deployment:
    moment = datetime.fromtimestamp(0, UTC)
    return Deployment(uid, "acme", uid, "tiny", state, Adapter("org/a", ""), moment, moment, version=version)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def routes() -> Routes:
    return Routes([BASE], log_length=8)


@pytest.fixture
def fleet(routes: Routes, clock: HandClock) -> Fleet:
    return Fleet({BASE.name: BASE}, routes, clock)


class TestLeases:
    async def test_one_lasts_while_reports_come(self, fleet: Fleet, clock: HandClock) -> None:
        lease = fleet.register(registration())
        for _ in range(5):
            clock.seconds += LEASE - 0.1
            lease.report(Report(running_sequences=1))
            fleet.expire()
        assert not lease.ended.done()
        assert fleet.pick("tiny", "") is lease

    async def test_one_ends_when_a_report_is_overdue(self, fleet: Fleet, clock: HandClock) -> None:
        lease = fleet.register(registration())
        clock.seconds += LEASE - 0.1
        fleet.expire()
        assert not lease.ended.done()
        clock.seconds += 0.1
        fleet.expire()
        with pytest.raises(UnavailableError, match="register again"):
            await lease.ended
        assert fleet.pick("tiny", "") is None

    async def test_one_ends_when_the_worker_leaves(self, fleet: Fleet, routes: Routes) -> None:
        lease = fleet.register(registration())
        lease.close()
        await lease.ended
        lease.report(Report())
        lease.close()
        assert (await routes.next(None)).workers == ()

    async def test_registering_again_takes_over_and_the_old_end_removes_nothing(
        self, fleet: Fleet, routes: Routes
    ) -> None:
        old = fleet.register(registration())
        new = fleet.register(registration())
        with pytest.raises(UnavailableError) as caught:
            await old.ended
        assert caught.value.reason == "LEASE_TAKEN_OVER"
        old.close()
        assert fleet.pick("tiny", "") is new
        assert len((await routes.next(None)).workers) == 1

    async def test_a_worker_that_does_not_fit_is_refused(self, fleet: Fleet) -> None:
        with pytest.raises(PreconditionError) as caught:
            fleet.register(registration(base_commit="other"))
        assert caught.value.reason == "BASE_COMMIT_MISMATCH"
        with pytest.raises(InvalidFieldError, match="one of tiny"):
            fleet.register(registration(base_model="nope"))
        with pytest.raises(InvalidFieldError, match="worker_id"):
            fleet.register(registration(""))

    async def test_those_of_before_a_restart_have_one_lease_to_come_back(
        self, fleet: Fleet, clock: HandClock
    ) -> None:
        fleet.restore([registration("w1"), registration("w2"), registration("odd", base_commit="other")])
        assert [one.worker_id for one in fleet.registrations()] == ["w1", "w2"]
        fleet.register(registration("w2")).report(Report())
        clock.seconds += LEASE
        fleet.register(registration("w2"))
        fleet.expire()
        assert [one.worker_id for one in fleet.registrations()] == ["w2"]


class TestPicking:
    async def test_where_the_adapter_is_resident_comes_first_then_the_least_busy(self, fleet: Fleet) -> None:
        leases = {name: fleet.register(registration(name)) for name in ("w1", "w2", "w3")}
        leases["w1"].report(Report(running_sequences=3))
        leases["w2"].report(Report(frozenset({"digest"}), running_sequences=9))
        leases["w3"].report(Report(waiting_sequences=1))
        assert fleet.pick("tiny", "digest") is leases["w2"]
        assert fleet.pick("tiny", "another") is leases["w3"]
        assert fleet.pick("tiny", "digest", rather_not={"w2"}) is leases["w3"]
        assert fleet.pick("tiny", "digest", rather_not={"w1", "w2", "w3"}) is leases["w2"]
        assert fleet.pick("other", "digest") is None

    async def test_a_draining_worker_takes_nothing_new(self, fleet: Fleet) -> None:
        lease = fleet.register(registration())
        lease.report(Report(draining=True))
        assert fleet.pick("tiny", "") is None

    async def test_who_waits_goes_on_when_a_worker_comes(self, fleet: Fleet) -> None:
        waiting = asyncio.create_task(fleet.lease_for("tiny", ""))
        await asyncio.sleep(0)
        assert not waiting.done()
        lease = fleet.register(registration())
        assert await waiting is lease


class TestRoutes:
    async def test_a_reader_gets_a_snapshot_then_changes(self, routes: Routes, fleet: Fleet) -> None:
        routes.set_deployment(deployment("u1"))
        first = await routes.next(None)
        assert first.snapshot
        assert [one.name for one in first.base_models] == ["tiny"]
        assert [one.uid for one in first.deployments] == ["u1"]
        routes.set_deployment(deployment("u2"))
        routes.set_deployment(deployment("u1", version=2, state=State.DELETED))
        lease = fleet.register(registration())
        second = await routes.next(first.version)
        assert not second.snapshot
        assert [one.uid for one in second.deployments] == ["u2"]
        assert second.removed_deployments == ["u1"]
        assert [one.registration.worker_id for one in second.workers] == ["w1"]
        lease.close()
        assert (await routes.next(second.version)).removed_workers == ["w1"]

    async def test_many_changes_of_one_thing_arrive_as_the_last(self, routes: Routes) -> None:
        first = await routes.next(None)
        for version in range(1, 6):
            routes.set_deployment(deployment("u1", version=version))
        second = await routes.next(first.version)
        assert [one.version for one in second.deployments] == [5]

    async def test_a_reader_that_fell_behind_the_log_gets_everything_afresh(self, routes: Routes) -> None:
        first = await routes.next(None)
        for version in range(1, 9):
            routes.set_deployment(deployment("u1", version=version))
        assert not (await routes.next(first.version)).snapshot
        routes.set_deployment(deployment("u2"))
        behind = await routes.next(first.version)
        assert behind.snapshot
        assert {one.uid for one in behind.deployments} == {"u1", "u2"}

    async def test_a_report_that_says_the_same_is_no_change(self, routes: Routes, fleet: Fleet) -> None:
        lease = fleet.register(registration())
        seen = (await routes.next(None)).version
        lease.report(Report())
        assert (await routes.next(None)).version == seen
        lease.report(Report(running_sequences=1))
        assert (await routes.next(seen)).workers == [Worker(registration(), Report(running_sequences=1))]

    async def test_a_waiting_reader_is_woken_by_a_change_and_ended_by_the_stop(self, routes: Routes) -> None:
        seen = (await routes.next(None)).version
        waiting = asyncio.create_task(routes.next(seen))
        await asyncio.sleep(0)
        routes.set_deployment(deployment())
        update = await waiting
        waiting = asyncio.create_task(routes.next(update.version))
        await asyncio.sleep(0)
        routes.end()
        with pytest.raises(UnavailableError) as caught:
            await waiting
        assert caught.value.reason == "REGISTRY_DRAINING"
