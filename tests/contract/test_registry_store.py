"""The registry's tables: what goes in comes out, names are unique while they live, retries are remembered a day."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import AsyncEngine

from services.common.database import open_database
from services.common.errors import AlreadyExistsError, InvalidFieldError, NotFoundError
from services.registry.__main__ import MIGRATIONS
from services.registry.deployments import lifecycle
from services.registry.deployments.deployment import (
    Adapter,
    AdapterVersion,
    Deployment,
    Failure,
    RepoExtras,
    State,
)
from services.registry.deployments.list_query import ListQuery, Order, Place
from services.registry.fleet.roster import Roster
from services.registry.fleet.worker import Capabilities, Registration
from services.registry.storage.store import CreateKey, Store
from services.registry.storage.tables import adapter_versions, metadata

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
VERSION = AdapterVersion("org/a", "c" * 40, "1" * 64, "2" * 64, 3 * 2**31, 8, ("q_proj", "v_proj"))
EXTRAS = RepoExtras("{{ ünïcode }}", {"eos_token": "</s>"}, (2, 7))
NEW = Deployment(
    uid="u1",
    account="acme",
    deployment_id="pirate",
    base_model="tiny",
    state=State.INITIALIZING,
    serving=Adapter("org/a", "main", hub_token=b"\x00sealed"),
    create_time=MOMENT,
    update_time=MOMENT,
    status_message="checking",
)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = await open_database(f"sqlite+aiosqlite:///{tmp_path / 'r.db'}", MIGRATIONS)
    yield engine
    await engine.dispose()


@pytest.fixture
def store(engine: AsyncEngine) -> Store:
    return Store(engine)


async def test_migrations_make_exactly_the_tables(engine: AsyncEngine) -> None:
    def differences(connection: sa.Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_what_goes_in_comes_out(store: Store) -> None:
    await store.insert(NEW, None)
    own = replace(VERSION, extras=EXTRAS)
    full = replace(
        NEW,
        serving=replace(NEW.serving, version=own, number=1, accept_base_name=True, use_base_template=True),
        candidate=Adapter("org/b", "", None, replace(VERSION, hub_repo="org/b", commit="d" * 40), number=4),
        state=State.RUNNING,
        failure=Failure("REASON", "message — ünïcode", {"field": "r"}),
        version=2,
        generation=3,
        versions=4,
        update_time=MOMENT + timedelta(seconds=1),
    )
    changed = await store.change("u1", lambda _before: full, full.update_time)
    assert changed == full
    assert await store.get("acme", "pirate") == full
    assert await store.get_by_uid("u1") == full
    assert await store.live() == [full]


async def test_each_change_is_one_version_up_and_a_refused_one_changes_nothing(store: Store) -> None:
    await store.insert(NEW, None)

    def refuse(_before: Deployment) -> Deployment:
        raise lifecycle.SupersededError

    changed = await store.change("u1", lambda one: lifecycle.progressed(one, "a"), MOMENT)
    with pytest.raises(lifecycle.SupersededError):
        await store.change("u1", refuse, MOMENT)
    assert (await store.get_by_uid("u1"), changed.version) == (changed, 2)
    with pytest.raises(NotFoundError):
        await store.change("nope", refuse, MOMENT)


async def test_changes_at_the_same_moment_follow_one_another(store: Store) -> None:
    await store.insert(NEW, None)
    await asyncio.gather(
        *(store.change("u1", lambda one: lifecycle.progressed(one, "x"), MOMENT) for _ in range(10))
    )
    found = await store.get_by_uid("u1")
    assert found is not None
    assert found.version == 11


async def test_a_name_is_taken_until_it_is_deleted(store: Store) -> None:
    await store.insert(NEW, None)
    with pytest.raises(AlreadyExistsError):
        await store.insert(replace(NEW, uid="u2"), None)
    await store.insert(replace(NEW, uid="u3", account="other"), None)
    await store.change("u1", lifecycle.deleted, MOMENT)
    again = await store.insert(replace(NEW, uid="u2"), None)
    assert await store.get("acme", "pirate") == again
    assert {one.uid for one in await store.live()} == {"u2", "u3"}


async def test_one_version_is_one_row_and_a_copy_in_another_repo_is_another(
    store: Store, engine: AsyncEngine
) -> None:
    copy = replace(VERSION, hub_repo="org/copy")
    assert copy.digest == VERSION.digest
    for number, version in enumerate((VERSION, VERSION, copy)):
        one = replace(NEW, uid=f"u{number}", deployment_id=f"d{number}")
        await store.insert(replace(one, serving=replace(one.serving, version=version)), None)
    async with engine.connect() as connection:
        rows = await connection.execute(sa.select(adapter_versions.c.hub_repo).order_by("hub_repo"))
        assert list(rows.scalars()) == ["org/a", "org/copy"]
    found = await store.get_by_uid("u2")
    assert found is not None
    assert found.serving.version == copy


async def test_one_version_with_other_extras_is_another_and_equal_extras_are_held_once(store: Store) -> None:
    versions = [replace(VERSION, extras=extras) for extras in (RepoExtras(), EXTRAS, replace(EXTRAS))]
    for number, version in enumerate(versions):
        one = replace(NEW, uid=f"u{number}", deployment_id=f"d{number}")
        await store.insert(replace(one, serving=replace(one.serving, version=version)), None)
    found = [one.serving.version for one in await store.live()]
    assert found == versions
    assert found[1] is not None
    assert found[2] is not None
    assert found[1].extras is found[2].extras
    assert await store.extras(EXTRAS.sha256) == EXTRAS
    assert await store.extras("") is None
    assert await store.extras("0" * 64) is None


class TestLists:
    @pytest.fixture
    async def filled(self, store: Store) -> Store:
        """Five of acme's, made at three moments, in an order that is neither that of their ids nor of their uids."""
        for uid, deployment_id, minute in (
            ("u5", "alpha", 2), ("u2", "delta", 1), ("u4", "bravo", 0), ("u1", "echo", 1), ("u3", "Charlie", 1),
        ):  # fmt: skip
            moment = MOMENT + timedelta(minutes=minute)
            one = replace(NEW, uid=uid, deployment_id=deployment_id.lower(), create_time=moment)
            await store.insert(replace(one, serving=Adapter(f"Org/{deployment_id}_x", "")), None)
        await store.insert(replace(NEW, uid="x", deployment_id="foreign", account="other"), None)
        return store

    @pytest.mark.parametrize(
        ("order", "uids"),
        [
            (Order.CREATE_TIME, ["u4", "u1", "u2", "u3", "u5"]),
            (Order.CREATE_TIME_DESCENDING, ["u5", "u3", "u2", "u1", "u4"]),
            (Order.NAME, ["u5", "u4", "u3", "u2", "u1"]),
        ],
    )
    @pytest.mark.parametrize("size", [1, 2, 5])
    async def test_pages_hold_every_one_of_an_account_once_and_in_order(
        self, filled: Store, order: Order, uids: list[str], size: int
    ) -> None:
        found: list[str] = []
        after: Place | None = None
        while page := await filled.page("acme", ListQuery(order=order), after, size):
            assert len(page) <= size
            found += [one.uid for one in page]
            after = Place.of(page[-1])
        assert found == uids

    async def test_only_the_states_that_are_asked_for(self, filled: Store) -> None:
        await filled.change("u2", lambda one: lifecycle.failed(one, Failure("R", "m")), MOMENT)
        await filled.change("u3", lambda one: replace(one, state=State.RUNNING), MOMENT)
        await filled.change("u4", lifecycle.deleted, MOMENT)

        async def uids(*states: State) -> list[str]:
            return [one.uid for one in await filled.page("acme", ListQuery(states=states), None, 9)]

        assert await uids(State.FAILED) == ["u2"]
        assert await uids(State.RUNNING, State.FAILED) == ["u2", "u3"]
        assert await uids() == ["u1", "u2", "u3", "u5"]
        assert await uids(State.DELETED) == []

    @pytest.mark.parametrize(
        ("search", "uids"),
        [
            ("CHARL", ["u3"]),
            ("acme/e", ["u1"]),
            ("org/al", ["u5"]),
            ("h", ["u1", "u3", "u5"]),
            ("a_x", ["u2", "u5"]),
            ("%", []),
            ("_", ["u4", "u1", "u2", "u3", "u5"]),
            ("/e", ["u1"]),
            ("\\", []),
            ("é", []),
        ],
    )
    async def test_a_search_finds_parts_of_names_and_repos_whatever_their_case(
        self, filled: Store, search: str, uids: list[str]
    ) -> None:
        found = await filled.page("acme", ListQuery(search=search), None, 9)
        assert sorted(one.uid for one in found) == sorted(uids)

    async def test_a_candidate_s_repo_is_found_too(self, filled: Store) -> None:
        await filled.change("u2", lambda one: replace(one, candidate=Adapter("org/better", "")), MOMENT)
        found = await filled.page("acme", ListQuery(search="Better"), None, 9)
        assert [one.uid for one in found] == ["u2"]


class TestRetries:
    KEY = CreateKey("r-1", "fields")

    async def test_within_a_day_one_finds_what_the_first_made(self, store: Store) -> None:
        await store.insert(NEW, self.KEY)
        late = replace(NEW, uid="u2", create_time=MOMENT + timedelta(hours=23, minutes=59))
        assert (await store.insert(late, self.KEY)).uid == "u1"

    async def test_it_finds_what_has_been_deleted_since(self, store: Store) -> None:
        await store.insert(NEW, self.KEY)
        gone = await store.change("u1", lifecycle.deleted, MOMENT)
        assert await store.insert(replace(NEW, uid="u2"), self.KEY) == gone

    async def test_with_other_fields_it_is_refused(self, store: Store) -> None:
        await store.insert(NEW, self.KEY)
        with pytest.raises(InvalidFieldError) as caught:
            await store.insert(replace(NEW, uid="u2"), CreateKey("r-1", "others"))
        assert caught.value.field == "idempotency_key"

    async def test_after_a_day_the_key_is_free(self, store: Store) -> None:
        await store.insert(NEW, self.KEY)
        later = replace(
            NEW, uid="u2", deployment_id="parrot", create_time=MOMENT + timedelta(days=1, seconds=1)
        )
        assert await store.insert(later, self.KEY) == later


async def test_the_roster_keeps_the_last_fleet(engine: AsyncEngine) -> None:
    roster = Roster(engine)
    assert await roster.read() == []
    able = Capabilities("local", "bf16", ("rslora", "dora"), 64, ("q_proj",), 4096, "bfloat16")
    fleet = [Registration(f"w{number}", "h:1", "tiny", "c", 8, 4, able) for number in range(3)]
    await roster.write(fleet)
    await roster.write(fleet[1:])
    assert await roster.read() == fleet[1:]
