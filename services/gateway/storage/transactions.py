"""Transactions on the gateway's database."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.common.shielding import to_the_end

T = TypeVar("T")


class Transactions:
    """Runs pieces of work, each in one transaction and to its end."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # SQLite has one writer at a time. Taking turns here beats its busy handler, which polls and is not
        # fair: with 200 writers it made the slowest hundredth wait a second.
        self._turn: contextlib.AbstractAsyncContextManager[None] = (
            asyncio.Lock() if engine.dialect.name == "sqlite" else contextlib.nullcontext()
        )

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work` in a transaction: all of it is committed, or nothing when it raises.

        A caller that is cancelled meanwhile gets its cancellation after the commit.
        """
        return await to_the_end(self._run(work))

    async def _run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with self._turn, self._engine.begin() as connection:
            return await work(connection)
