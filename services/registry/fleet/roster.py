"""The workers under lease, in the database: a registry that comes back hands them out before they have called.

Without it gateways would hear of a fleet without workers, and refuse requests until each has registered again.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from services.registry.fleet.fleet import REPORT_INTERVAL, Fleet
from services.registry.fleet.worker import Capabilities, Registration
from services.registry.storage.tables import workers


class Roster:
    """The table of workers. Its only writer is this process."""

    def __init__(self, engine: AsyncEngine) -> None:
        """`engine` is open and its schema is up to date."""
        self._engine = engine

    async def read(self) -> Sequence[Registration]:
        """The workers that were under lease when the registry stopped."""
        async with self._engine.begin() as connection:
            rows = await connection.execute(workers.select().order_by(workers.c.worker_id))
            return [_registration(row.registration) for row in rows]

    async def write(self, registrations: Sequence[Registration]) -> None:
        """Replace the table."""
        rows = [{"worker_id": one.worker_id, "registration": asdict(one)} for one in registrations]
        async with self._engine.begin() as connection:
            await connection.execute(workers.delete())
            if rows:
                await connection.execute(workers.insert(), rows)


def _registration(stored: dict[str, Any]) -> Registration:  # Any: JSON values
    """The inverse of `asdict`; JSON makes lists of tuples."""
    said = stored["capabilities"]
    names = {field: tuple(said[field]) for field in ("adapter_variants", "target_modules")}
    return Registration(**{**stored, "capabilities": Capabilities(**{**said, **names})})


async def keep_leases(fleet: Fleet, roster: Roster) -> None:
    """For as long as the registry runs: end the leases that are overdue, and note who is there."""
    written: Sequence[Registration] = ()
    while True:
        await asyncio.sleep(REPORT_INTERVAL)
        fleet.expire()
        present = fleet.registrations()
        if present != written:
            await roster.write(present)
            written = present
