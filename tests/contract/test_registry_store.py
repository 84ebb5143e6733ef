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
from services.registry.deployments.deployment import Adapter, AdapterVersion, Deployment, Failure, State
from services.registry.fleet.roster import Roster
from services.registry.fleet.worker import Registration
from services.registry.storage.store import RequestKey, Store
from services.registry.storage.tables import adapter_versions, metadata

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
VERSION = AdapterVersion("org/a", "c" * 40, "1" * 64, "2" * 64, 3 * 2**31, 8, ("q_proj", "v_proj"))
NEW = Deployment(
    uid="u1",
    account="acme",
    deployment_id="pirate",
    base_model="tiny",
    state=State.INITIALIZING,
    adapter=Adapter("org/a", "main", hub_token=b"\x00sealed"),
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
    full = replace(
        NEW,
        adapter=replace(NEW.adapter, version=VERSION),
        candidate=Adapter("org/b", "", None, replace(VERSION, hub_repo="org/b", commit="d" * 40)),
        state=State.RUNNING,
        failure=Failure("REASON", "message — ünïcode", {"field": "r"}),
        version=2,
        generation=3,
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
        await store.insert(replace(one, adapter=replace(one.adapter, version=version)), None)
    async with engine.connect() as connection:
        rows = await connection.execute(sa.select(adapter_versions.c.hub_repo).order_by("hub_repo"))
        assert list(rows.scalars()) == ["org/a", "org/copy"]
    found = await store.get_by_uid("u2")
    assert found is not None
    assert found.adapter.version == copy


async def test_pages_go_by_id_within_an_account(store: Store) -> None:
    for number in (3, 1, 2):
        await store.insert(replace(NEW, uid=f"u{number}", deployment_id=f"d{number}"), None)
    await store.insert(replace(NEW, uid="x", deployment_id="d9", account="other"), None)
    assert [one.uid for one in await store.page("acme", "", 2)] == ["u1", "u2"]
    assert [one.uid for one in await store.page("acme", "d2", 2)] == ["u3"]


class TestRetries:
    KEY = RequestKey("r-1", "fields")

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
            await store.insert(replace(NEW, uid="u2"), RequestKey("r-1", "others"))
        assert caught.value.field == "request_id"

    async def test_after_a_day_the_id_is_free(self, store: Store) -> None:
        await store.insert(NEW, self.KEY)
        later = replace(
            NEW, uid="u2", deployment_id="parrot", create_time=MOMENT + timedelta(days=1, seconds=1)
        )
        assert await store.insert(later, self.KEY) == later


async def test_the_roster_keeps_the_last_fleet(engine: AsyncEngine) -> None:
    roster = Roster(engine)
    assert await roster.read() == []
    fleet = [Registration(f"w{number}", "h:1", "tiny", "c", 8, 4) for number in range(3)]
    await roster.write(fleet)
    await roster.write(fleet[1:])
    assert await roster.read() == fleet[1:]
