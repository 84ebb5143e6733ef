"""The book of deployments: every write goes through here, one at a time, and is told to all who follow."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

from services.common.clock import Clock
from services.registry.deployments.changes import Changes
from services.registry.deployments.deployment import Deployment
from services.registry.fleet.route_log import Routes
from services.registry.storage.store import CreateKey, Store

Transition = Callable[[Deployment], Deployment]


class DeploymentBook:
    """Writes to the store, then to the routes and the followers, in the same order.

    A write that has begun is carried to its end even when its caller is cancelled, so that nobody follows a
    state that the database has left behind.
    """

    def __init__(self, store: Store, routes: Routes, changes: Changes, clock: Clock) -> None:
        self._store = store
        self._routes = routes
        self._changes = changes
        self._clock = clock
        self._writing = asyncio.Lock()
        self._writes: set[asyncio.Task[Deployment]] = set()

    def now(self) -> datetime:
        """The time that writes are stamped with."""
        return self._clock.now()

    async def insert(self, new: Deployment, key: CreateKey | None) -> Deployment:
        """As Store.insert."""
        return await self._write(self._store.insert(new, key))

    async def change(self, uid: str, transition: Transition) -> Deployment:
        """As Store.change."""
        return await self._write(self._store.change(uid, transition, self._clock.now()))

    # Any: what a coroutine yields and is sent is asyncio's own business.
    async def _write(self, work: Coroutine[Any, Any, Deployment]) -> Deployment:
        async def write() -> Deployment:
            async with self._writing:
                deployment = await work
                self._routes.set_deployment(deployment)
                self._changes.publish(deployment)
                return deployment

        task = asyncio.create_task(write())
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for the writes whose callers have left."""
        await asyncio.gather(*self._writes, return_exceptions=True)
