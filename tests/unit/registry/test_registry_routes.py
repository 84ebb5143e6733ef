"""The table of routes: what a reader that has seen some of it still lacks, and in which messages it comes."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from loramux.deployment.v1 import deployment_pb2
from loramux.fleet.v1 import fleet_pb2, routing_pb2
from services.common.errors import InvalidFieldError, UnavailableError
from services.registry.admission.base_rules import parse_config
from services.registry.admission.header_check import check_header
from services.registry.bases.base_model import BaseModel, BaseModule, ModuleKind, Price, Tokenizer
from services.registry.deployments import lifecycle
from services.registry.deployments.deployment import Adapter, AdapterVersion, Deployment, Failure, State
from services.registry.fleet.route_log import Routes, TableVersion
from services.registry.fleet.worker import Departure, Registration, Report, Worker
from services.registry.rpc.lease_messages import registration_of, report_of
from services.registry.rpc.route_messages import resume_from, route_parts
from tests.support.registry import adapter_config

BASE = BaseModel(
    name="tiny",
    hub_ids=("org/Tiny-Base",),
    local_path="/base",
    hub_repo="",
    commit="c0ffee",
    context_length=512,
    max_lora_rank=64,
    target_modules=("q_proj", "v_proj"),
    price=Price(2, 2, 2),
    modules={"model.layers.0.self_attn.q_proj": BaseModule(ModuleKind.LINEAR, (16, 8))},
    tokenizer=Tokenizer(b"", "", {}),
)
MIB = 1 << 20


def deployment(uid: str = "u1", *, version: int = 1, state: State = State.RUNNING) -> Deployment:
    moment = datetime.fromtimestamp(0, UTC)
    return Deployment(uid, "acme", uid, "tiny", state, Adapter("org/a", ""), moment, moment, version=version)


def worker(worker_id: str = "w1", report: Report | None = None) -> Worker:
    return Worker(Registration(worker_id, f"{worker_id}:1", "tiny", "c0ffee", 8, 4), report or Report())


def admitted(number: int) -> Deployment:
    """One that serves."""
    content = AdapterVersion(f"org/a{number}", "c" * 40, f"{number:064x}", "2" * 64, 100, 8, ("q_proj",))
    return replace(deployment(f"{number:032x}"), serving=Adapter("org/a", "", None, content, 1))


@pytest.fixture
def routes() -> Routes:
    return Routes([BASE], log_length=8)


class TestWhatAReaderLacks:
    async def test_it_gets_a_snapshot_then_changes(self, routes: Routes) -> None:
        routes.set_deployment(deployment("u1"))
        first = await routes.next(None)
        assert first.snapshot
        assert [one.name for one in first.base_models] == ["tiny"]
        assert [one.uid for one in first.deployments] == ["u1"]
        routes.set_deployment(deployment("u2"))
        routes.set_deployment(deployment("u1", version=2, state=State.DELETED))
        routes.set_worker(worker())
        second = await routes.next(first.version)
        assert not second.snapshot
        assert [one.uid for one in second.deployments] == ["u2"]
        assert second.removed_deployments == ["u1"]
        assert [one.registration.worker_id for one in second.workers] == ["w1"]
        routes.remove_worker("w1", Departure.DRAINED)
        assert (await routes.next(second.version)).removed_workers == [("w1", Departure.DRAINED)]

    async def test_base_models_come_and_go_too(self, routes: Routes) -> None:
        seen = (await routes.next(None)).version
        routes.set_base_model(replace(BASE, name="other"))
        routes.remove_base_model("tiny")
        update = await routes.next(seen)
        assert [one.name for one in update.base_models] == ["other"]
        assert update.removed_base_models == ["tiny"]
        assert [one.name for one in (await routes.next(None)).base_models] == ["other"]

    async def test_many_changes_of_one_thing_arrive_as_the_last(self, routes: Routes) -> None:
        first = await routes.next(None)
        for version in range(1, 6):
            routes.set_deployment(deployment("u1", version=version))
        second = await routes.next(first.version)
        assert [one.version for one in second.deployments] == [5]

    async def test_a_worker_that_came_back_is_there_and_not_among_the_gone(self, routes: Routes) -> None:
        routes.set_worker(worker())
        seen = (await routes.next(None)).version
        routes.remove_worker("w1", Departure.LOST)
        routes.set_worker(worker())
        update = await routes.next(seen)
        assert (len(update.workers), update.removed_workers) == (1, [])

    async def test_one_that_fell_behind_the_log_gets_everything_afresh(self, routes: Routes) -> None:
        first = await routes.next(None)
        for version in range(1, 9):
            routes.set_deployment(deployment("u1", version=version))
        assert not (await routes.next(first.version)).snapshot
        routes.set_deployment(deployment("u2"))
        behind = await routes.next(first.version)
        assert behind.snapshot
        assert {one.uid for one in behind.deployments} == {"u1", "u2"}

    async def test_one_that_comes_from_another_table_gets_everything_afresh(self, routes: Routes) -> None:
        before = Routes([BASE])
        for table in (before, routes):
            table.set_deployment(deployment("u1"))
        elsewhere = (await before.next(None)).version
        here = (await routes.next(None)).version
        assert elsewhere.number == here.number
        update = await routes.next(elsewhere)
        assert (update.snapshot, update.version) == (True, here)

    @pytest.mark.parametrize("number", [-1, 7, 2**62])
    async def test_a_version_that_never_was_gets_everything_afresh(self, routes: Routes, number: int) -> None:
        here = (await routes.next(None)).version
        assert (await routes.next(TableVersion(here.table, number))).snapshot

    async def test_a_report_that_says_the_same_is_no_change(self, routes: Routes) -> None:
        routes.set_worker(worker())
        seen = (await routes.next(None)).version
        routes.set_worker(worker())
        assert (await routes.next(None)).version == seen
        busy = worker(report=Report(running_sequences=1))
        routes.set_worker(busy)
        assert (await routes.next(seen)).workers == [busy]

    async def test_while_it_waits_a_change_wakes_it_and_the_stop_ends_it(self, routes: Routes) -> None:
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


class TestMessages:
    async def test_a_small_update_is_one_part_with_the_version(self, routes: Routes) -> None:
        update = await routes.next(None)
        (part,) = route_parts(update)
        assert (part.snapshot, part.more) == (True, False)
        assert (part.version.table, part.version.number) == (update.version.table, update.version.number)
        request = routing_pb2.WatchRoutesRequest(resume_from=part.version)
        assert resume_from(request) == update.version
        assert resume_from(routing_pb2.WatchRoutesRequest()) is None

    async def test_a_large_snapshot_is_parts_below_the_limit_and_the_version_comes_last(self) -> None:
        routes = Routes([BASE])
        for number in range(10_000):
            routes.set_deployment(admitted(number))
        update = await routes.next(None)
        parts = list(route_parts(update))
        assert len(parts) > 1
        assert max(part.ByteSize() for part in parts) < MIB
        assert min(part.ByteSize() for part in parts[:-1]) > MIB * 9 // 10
        assert all(part.snapshot for part in parts)
        assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
        assert [part.HasField("version") for part in parts] == [False] * (len(parts) - 1) + [True]
        uids = [one.uid for part in parts for one in part.deployments]
        assert uids == [one.uid for one in update.deployments]

    async def test_removals_are_bounded_too(self) -> None:
        routes = Routes([BASE], log_length=50_000)
        for number in range(40_000):
            routes.set_deployment(deployment(f"{number:032x}"))
        seen = (await routes.next(None)).version
        for number in range(40_000):
            routes.set_deployment(deployment(f"{number:032x}", state=State.DELETED))
        parts = list(route_parts(await routes.next(seen)))
        assert len(parts) > 1
        assert max(part.ByteSize() for part in parts) < MIB
        assert sum(len(part.removed_deployments) for part in parts) == 40_000

    async def test_why_a_worker_went_is_said(self, routes: Routes) -> None:
        for name in ("a", "b"):
            routes.set_worker(worker(name))
        seen = (await routes.next(None)).version
        routes.remove_worker("a", Departure.DRAINED)
        routes.remove_worker("b", Departure.LOST)
        (part,) = route_parts(await routes.next(seen))
        gone = routing_pb2.RemovedWorker
        assert list(part.removed_workers) == [
            gone(worker_id="a", reason=gone.REASON_DRAINED),
            gone(worker_id="b", reason=gone.REASON_LOST),
        ]

    async def test_what_a_worker_says_of_itself_reaches_gateways_unchanged(self, routes: Routes) -> None:
        registration = fleet_pb2.WorkerRegistration(
            worker_id="w1", address="h:1", base_model="tiny", base_commit="c", max_sequences=8, adapter_slots=4,
            capabilities=fleet_pb2.Capabilities(
                engine="local", mode="bf16", adapter_variants=["rslora", "dora"], max_lora_rank=64,
                target_modules=["q_proj"], context_length=4096, dtype="bfloat16",
            ),
        )  # fmt: skip
        report = fleet_pb2.WorkerReport(
            resident_digests=["a" * 64, "b" * 64], running_sequences=1, waiting_sequences=2, draining=True,
            memory=fleet_pb2.Memory(kv_blocks=10, kv_blocks_held=3, adapter_bytes=5),
        )  # fmt: skip
        routes.set_worker(Worker(registration_of(registration), report_of(report)))
        (part,) = route_parts(await routes.next(None))
        assert part.workers[0] == routing_pb2.WorkerRoute(registration=registration, report=report)
        assert report_of(fleet_pb2.WorkerReport()).memory is None

    def test_a_worker_that_names_too_much_is_refused_before_it_is_read(self) -> None:
        with pytest.raises(InvalidFieldError, match="at most 4096"):
            report_of(fleet_pb2.WorkerReport(resident_digests=["a"] * 5_000))
        able = fleet_pb2.Capabilities(target_modules=["q"] * 257)
        with pytest.raises(InvalidFieldError, match="at most 256"):
            registration_of(fleet_pb2.WorkerRegistration(capabilities=able))


async def test_a_failure_in_a_route_is_its_reason_and_a_line(routes: Routes) -> None:
    failure = Failure("REASON", "x" * 900 + "\nmore", {"secret": "of its owner"})
    routes.set_deployment(replace(deployment(state=State.FAILED), failure=failure))
    (part,) = route_parts(await routes.next(None))
    (route,) = part.deployments
    assert route.state == deployment_pb2.Deployment.STATE_FAILED
    assert route.failure_reason == "REASON"
    assert route.failure_message.startswith("xxx")
    assert len(route.failure_message) <= 256
    assert b"of its owner" not in part.SerializeToString()


async def test_a_tensor_with_a_name_of_megabytes_stays_small_in_failure_and_route(routes: Routes) -> None:
    name = f"base_model.model.{'x' * 2_500_000}.lora_A.weight"
    header = json.dumps({name: {"dtype": "I8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    fitted = parse_config(json.dumps(adapter_config()).encode(), BASE)
    with pytest.raises(InvalidFieldError) as caught:
        check_header(header, file_size=8 + len(header) + 1, fitted=fitted, base=BASE)
    failure = Failure.of(caught.value)
    assert failure.reason == "ADAPTER_TENSORS_INVALID"
    assert len(failure.message) <= 1_024
    assert sum(len(key) + len(value) for key, value in failure.metadata.items()) <= 1_200
    routes.set_deployment(lifecycle.failed(deployment(state=State.INITIALIZING), failure))
    (part,) = route_parts(await routes.next(None))
    assert part.deployments[0].failure_reason == "ADAPTER_TENSORS_INVALID"
    assert part.ByteSize() < 2_000


def test_a_worker_s_words_are_bounded_in_the_status_too() -> None:
    progressed = lifecycle.progressed(deployment(), "waiting to load again: " + "x" * 1_000_000)
    assert len(progressed.status_message) <= 512
