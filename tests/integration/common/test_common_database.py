"""SQLite as the services open it."""

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from services.common.database import open_database
from services.registry.__main__ import MIGRATIONS

NUMBERS = sa.Table("numbers", sa.MetaData(), sa.Column("one", sa.Integer))


@pytest.mark.parametrize("place", ["/{folder}/numbers.db", ""])
async def test_transactions_of_one_process_wait_in_line_and_none_is_refused(
    tmp_path: Path, place: str
) -> None:
    """They met inside SQLite, which gave some of them `database is locked` on a busy machine."""
    engine = await open_database(f"sqlite+aiosqlite://{place.format(folder=tmp_path)}", MIGRATIONS)

    def do_not_wait(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout=0")
        cursor.close()

    await engine.dispose()
    sa.event.listen(engine.sync_engine, "connect", do_not_wait)
    order: list[int] = []

    async def count(number: int) -> None:
        async with engine.begin() as connection:
            before = (await connection.execute(sa.select(sa.func.count()).select_from(NUMBERS))).scalar_one()
            await asyncio.sleep(0)
            await connection.execute(NUMBERS.insert().values(one=before))
            order.append(number)

    async with engine.begin() as connection:
        await connection.run_sync(NUMBERS.metadata.create_all)
    await asyncio.gather(*(count(number) for number in range(50)))
    async with engine.begin() as connection:
        seen = (await connection.execute(sa.select(NUMBERS.c.one).order_by(NUMBERS.c.one))).scalars().all()
    await engine.dispose()
    assert list(seen) == list(range(50))
    assert order == list(range(50))
