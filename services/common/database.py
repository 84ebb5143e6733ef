"""The database of a service: an async SQLAlchemy engine, and its Alembic migrations run at start."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command, context
from alembic.config import Config
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry


async def open_database(url: str, migrations: Path) -> AsyncEngine:
    """Connect to `url` and bring its schema to the newest revision under `migrations`.

    SQLite transactions begin as writers: one that first reads and then writes could not be retried by
    waiting, and would fail under load. So there is one at a time, and one connection, for which they wait in line:
    connections that waited for each other inside SQLite would be served by chance, and some never.
    """
    if sa.make_url(url).get_backend_name() == "sqlite":
        engine = create_async_engine(url, poolclass=AsyncAdaptedQueuePool, pool_size=1, max_overflow=0)
        sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        sa.event.listen(engine.sync_engine, "begin", _begin_as_writer)
    else:
        engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(_upgrade, migrations)
    return engine


def run_migrations(metadata: sa.MetaData) -> None:
    """The body of every `migrations/env.py`: migrate over the connection that `open_database` passes."""
    connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        target_metadata=metadata,
        # SQLite cannot alter a column in place; Alembic then copies the table.
        render_as_batch=connection.dialect.name == "sqlite",
    )
    context.run_migrations()


def _upgrade(connection: sa.Connection, migrations: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # The driver must not begin transactions by itself; _begin_as_writer does.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "busy_timeout=10000", "foreign_keys=ON", "synchronous=NORMAL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_as_writer(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
