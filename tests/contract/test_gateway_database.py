"""The gateway's schema, accounts and keys on a real database."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.common.database import open_database
from services.common.errors import AlreadyExistsError, InvalidFieldError, NotFoundError, UnauthenticatedError
from services.gateway.__main__ import MIGRATIONS
from services.gateway.accounts.accounts import AccountLimits, Accounts
from services.gateway.accounts.auth import Authenticator
from services.gateway.accounts.keys import Keys, hash_of
from services.gateway.limits.limiter import Limits
from services.gateway.storage import tables
from services.gateway.storage.transactions import Transactions
from tests.support.gateway_clock import ManualClock

OPERATOR_KEY = "lmx_operator"


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    opened = await open_database(f"sqlite+aiosqlite:///{tmp_path}/gateway.db", MIGRATIONS)
    yield opened
    await opened.dispose()


class Desk:
    def __init__(self, engine: AsyncEngine) -> None:
        self.clock = ManualClock()
        self.transactions = Transactions(engine)
        self.accounts = Accounts(self.transactions, self.clock)
        self.keys = Keys(self.transactions, self.clock, b"minting")
        self.auth = Authenticator(self.keys, hash_of(OPERATOR_KEY), self.clock)


@pytest.fixture
async def desk(engine: AsyncEngine) -> Desk:
    made = Desk(engine)
    await made.accounts.create("acme", AccountLimits(max_in_flight=3), 100, "")
    return made


async def test_the_migrations_lead_to_the_tables(engine: AsyncEngine) -> None:
    def differences(connection: sa.Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), tables.metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_opening_the_same_database_again_changes_nothing(engine: AsyncEngine, tmp_path: Path) -> None:
    again = await open_database(f"sqlite+aiosqlite:///{tmp_path}/gateway.db", MIGRATIONS)
    await again.dispose()


async def test_an_account_is_there_once(desk: Desk) -> None:
    with pytest.raises(AlreadyExistsError):
        await desk.accounts.create("acme", AccountLimits(), 0, "")
    assert (await desk.accounts.get("acme")).limits == AccountLimits(max_in_flight=3)
    with pytest.raises(NotFoundError):
        await desk.accounts.get("nobody")


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        (AccountLimits(max_in_flight=0), "limits.max_in_flight"),
        (AccountLimits(requests_per_minute=-1), "limits.requests_per_minute"),
        (AccountLimits(tokens_per_minute=-1), "limits.tokens_per_minute"),
    ],
)
async def test_limits_that_make_no_sense_are_refused(desk: Desk, limits: AccountLimits, field: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        await desk.accounts.create("other", limits, 0, "")
    assert caught.value.field == field


def test_unset_limits_take_the_operators() -> None:
    own = AccountLimits(requests_per_minute=0, tokens_per_minute=9)
    assert own.over(Limits(200, 60, 1_000)) == Limits(200, 0, 9)


async def test_of_a_key_only_its_hash_is_kept(desk: Desk, tmp_path: Path) -> None:
    key, secret = await desk.keys.create("acme", "laptop")
    assert secret.startswith(key.prefix)
    assert secret.startswith("lmx_")
    assert len(secret) == 4 + 43

    async def stored(connection: AsyncConnection) -> object:
        return (await connection.execute(sa.select(tables.keys.c.hash))).scalar_one()

    assert await desk.transactions.run(stored) == hashlib.sha256(secret.encode()).hexdigest()
    assert secret.removeprefix(key.prefix).encode() not in everything_in(tmp_path)


def everything_in(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def test_keys_differ(desk: Desk) -> None:
    assert len({(await desk.keys.create("acme", ""))[1] for _ in range(20)}) == 20


async def test_a_key_needs_an_account_and_a_short_description(desk: Desk) -> None:
    with pytest.raises(NotFoundError):
        await desk.keys.create("nobody", "")
    with pytest.raises(InvalidFieldError):
        await desk.keys.create("acme", "x" * 257)


async def test_a_key_tells_whose_it_is(desk: Desk) -> None:
    _, secret = await desk.keys.create("acme", "")
    principal = await desk.auth.authenticate(f"Bearer {secret}")
    assert (principal.account, principal.is_operator) == ("acme", False)
    assert principal.limits == AccountLimits(max_in_flight=3)
    operator = await desk.auth.authenticate(f"bearer {OPERATOR_KEY}")
    assert (operator.account, operator.is_operator) == ("", True)


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        ("", "NO_KEY"),
        ("Bearer", "NO_KEY"),
        ("Bearer ", "NO_KEY"),
        ("Basic lmx_x", "NO_KEY"),
        ("Bearer lmx_wrong", "KEY_INVALID"),
        ("Bearer something else", "KEY_INVALID"),
    ],
)
async def test_what_is_not_a_key_is_refused(desk: Desk, authorization: str, reason: str) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        await desk.auth.authenticate(authorization)
    assert caught.value.reason == reason
    assert "lmx_wrong" not in caught.value.message


async def test_a_revocation_holds_at_once_here_and_within_five_seconds_elsewhere(desk: Desk) -> None:
    elsewhere = Authenticator(desk.keys, hash_of(OPERATOR_KEY), desk.clock)
    key, secret = await desk.keys.create("acme", "")
    for auth in (desk.auth, elsewhere):
        await auth.authenticate(f"Bearer {secret}")
    await desk.keys.revoke(key.id, "acme")
    desk.auth.forget(key.id)
    with pytest.raises(UnauthenticatedError) as caught:
        await desk.auth.authenticate(f"Bearer {secret}")
    assert caught.value.reason == "KEY_REVOKED"
    desk.clock.advance(4.9)
    with pytest.raises(UnauthenticatedError):
        await elsewhere.authenticate(f"Bearer {secret}")


async def test_a_known_key_needs_no_database_for_a_while(desk: Desk, engine: AsyncEngine) -> None:
    _, secret = await desk.keys.create("acme", "")
    await desk.auth.authenticate(f"Bearer {secret}")
    async with engine.begin() as connection:
        await connection.execute(sa.delete(tables.keys))
    desk.clock.advance(3)
    await desk.auth.authenticate(f"Bearer {secret}")
    desk.clock.advance(2)
    with pytest.raises(UnauthenticatedError):
        await desk.auth.authenticate(f"Bearer {secret}")


async def test_revoking_again_keeps_the_first_moment(desk: Desk) -> None:
    key, _ = await desk.keys.create("acme", "")
    first = await desk.keys.revoke(key.id, None)
    desk.clock.advance(5)
    assert (await desk.keys.revoke(key.id, "acme")).revoke_time == first.revoke_time


async def test_a_foreign_key_is_as_unknown_as_one_that_never_was(desk: Desk) -> None:
    key, secret = await desk.keys.create("acme", "")
    with pytest.raises(NotFoundError):
        await desk.keys.revoke(key.id, "rival")
    with pytest.raises(NotFoundError):
        await desk.keys.revoke("f" * 32, "rival")
    await desk.auth.authenticate(f"Bearer {secret}")
