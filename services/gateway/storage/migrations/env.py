"""Alembic's entry; `services.common.database.open_database` passes the connection."""

from services.common.database import run_migrations
from services.gateway.storage.tables import metadata

run_migrations(metadata)
