"""Leases, with the clock in hand."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from services.common.errors import InvalidFieldError, PreconditionError, UnavailableError
from services.registry.bases.base_model import BaseModel, Price, Tokenizer
from services.registry.fleet.fleet import OVERDUE, REPORT_INTERVAL, Fleet
from services.registry.fleet.route_log import Routes
from services.registry.fleet.worker import (
    MAX_NAMES,
    MAX_RESIDENTS,
    Capabilities,
    Departure,
    Registration,
    Report,
)

BASE = BaseModel(
    name="tiny",
    hub_ids=("org/Tiny",),
    local_path="/base",
    hub_repo="",
    commit="c0ffee",
    context_length=512,
    max_lora_rank=64,
    target_modules=("q_proj",),
    price=Price(2, 2, 2),
    modules={},
    tokenizer=Tokenizer(b"", "", {}),
)
DIGEST = "d" * 64
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
        assert fleet.registrations() == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"worker_id": "w" * 201},
            {"address": "a" * 201},
            {"max_sequences": 0},
            {"adapter_slots": -1},
            {"capabilities": Capabilities(engine="e" * 129)},
            {"capabilities": Capabilities(adapter_variants=("dora",) * (MAX_NAMES + 1))},
            {"capabilities": Capabilities(target_modules=("m" * 129,))},
            {"capabilities": Capabilities(context_length=-1)},
        ],
    )
    async def test_what_a_worker_says_of_itself_is_bounded(
        self, fleet: Fleet, changes: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidFieldError) as caught:
            fleet.register(replace(registration(), **changes))
        assert len(caught.value.message) < 1_000
        assert fleet.registrations() == []

    @pytest.mark.parametrize(
        "residents",
        [frozenset(f"{number:064x}" for number in range(MAX_RESIDENTS + 1)), frozenset({"d" * 65})],
    )
    async def test_a_report_beyond_bounds_is_refused(self, fleet: Fleet, residents: frozenset[str]) -> None:
        lease = fleet.register(registration())
        with pytest.raises(InvalidFieldError):
            lease.report(Report(residents))
        assert lease.worker.report == Report()

    async def test_one_that_drained_leaves_in_order_and_any_other_is_lost(
        self, fleet: Fleet, routes: Routes, clock: HandClock
    ) -> None:
        names = ("drained", "left", "silent", "told-then-silent")
        leases = {name: fleet.register(registration(name)) for name in names}
        for name in ("drained", "told-then-silent"):
            leases[name].report(Report(draining=True))
        seen = (await routes.next(None)).version
        leases["drained"].close()
        leases["left"].close()
        clock.seconds += LEASE
        fleet.expire()
        assert dict((await routes.next(seen)).removed_workers) == {
            "drained": Departure.DRAINED,
            "left": Departure.LOST,
            "silent": Departure.LOST,
            "told-then-silent": Departure.LOST,
        }

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
        leases["w2"].report(Report(frozenset({DIGEST}), running_sequences=9))
        leases["w3"].report(Report(waiting_sequences=1))
        assert fleet.pick("tiny", DIGEST) is leases["w2"]
        assert fleet.pick("tiny", "another") is leases["w3"]
        assert fleet.pick("tiny", DIGEST, rather_not={"w2"}) is leases["w3"]
        assert fleet.pick("tiny", DIGEST, rather_not={"w1", "w2", "w3"}) is leases["w2"]
        assert fleet.pick("other", DIGEST) is None

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


async def test_the_context_of_a_base_is_what_all_its_workers_can_hold(
    routes: Routes, clock: HandClock
) -> None:
    fleet = Fleet({"tiny": BASE}, routes, clock)
    assert fleet.context_length(BASE) == BASE.context_length
    leases = [
        fleet.register(replace(registration(f"w{length}"), capabilities=Capabilities(context_length=length)))
        for length in (BASE.context_length // 2, 0, BASE.context_length // 4)
    ]
    assert fleet.context_length(BASE) == BASE.context_length // 4
    fleet.end(leases[2], None)
    assert fleet.context_length(BASE) == BASE.context_length // 2
