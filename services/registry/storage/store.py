"""Deployments and adapter versions in the database. Every method is one transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.common.errors import AlreadyExistsError, InvalidFieldError, NotFoundError
from services.registry.deployments.deployment import Deployment, RepoExtras, State
from services.registry.deployments.list_query import ListQuery, Order, Place
from services.registry.storage import deployment_rows
from services.registry.storage.deployment_rows import RowReader
from services.registry.storage.tables import adapter_versions, deployments

_KEY_KEPT = timedelta(days=1)


@dataclass(frozen=True)
class CreateKey:
    """A creating request, so that its retry finds what it made."""

    idempotency_key: str
    fingerprint: str
    """Of the fields sent with it."""


class Store:
    """Reads and writes. Rows of deleted deployments stay; they answer retries and keep uids unique."""

    def __init__(self, engine: AsyncEngine) -> None:
        """`engine` is open and its schema is up to date."""
        self._engine = engine
        self._rows = RowReader()

    async def insert(self, new: Deployment, key: CreateKey | None) -> Deployment:
        """Add `new`, or return what a request with the same key made before.

        Raises AlreadyExistsError where the name is taken, InvalidFieldError where the key came with other
        fields.
        """
        async with self._engine.begin() as connection:
            if key is not None:
                made = await self._made_by(connection, new, key)
                if made is not None:
                    return made
            if (
                await connection.execute(deployment_rows.query(*_live_name(new.account, new.deployment_id)))
            ).first():
                raise AlreadyExistsError("deployment", new.name)
            values = await deployment_rows.values(connection, new)
            if key is not None:
                values |= {
                    "idempotency_key": key.idempotency_key,
                    "idempotency_fingerprint": key.fingerprint,
                }
            await connection.execute(deployments.insert().values(values))
        return new

    async def change(
        self, uid: str, transition: Callable[[Deployment], Deployment], now: datetime
    ) -> Deployment:
        """Replace a deployment by what `transition` makes of it, one version up, and return that.

        Nothing changes where it raises. Raises NotFoundError where there is none with this uid.
        """
        async with self._engine.begin() as connection:
            row = (
                await connection.execute(
                    deployment_rows.query(deployments.c.uid == uid).with_for_update(of=deployments)
                )
            ).first()
            if row is None:
                raise NotFoundError("deployment", uid)
            before = self._rows.deployment(row)
            after = replace(transition(before), version=before.version + 1, update_time=now)
            await connection.execute(
                deployments.update()
                .where(deployments.c.uid == uid)
                .values(await deployment_rows.values(connection, after))
            )
        return after

    async def get(self, account: str, deployment_id: str) -> Deployment | None:
        """The live deployment of a name."""
        found = await self._fetch(deployment_rows.query(*_live_name(account, deployment_id)))
        return found[0] if found else None

    async def get_by_uid(self, uid: str) -> Deployment | None:
        """A deployment, deleted or not."""
        found = await self._fetch(deployment_rows.query(deployments.c.uid == uid))
        return found[0] if found else None

    async def page(
        self, account: str, query: ListQuery, after: Place | None, size: int
    ) -> Sequence[Deployment]:
        """At most `size` of an account's live deployments that come behind `after`; None begins the list."""
        where = [deployments.c.account == account, deployments.c.state != State.DELETED.value]
        if query.states:
            where.append(deployments.c.state.in_([one.value for one in query.states]))
        if query.search:
            where.append(_found_by(query.search))
        if after is not None:
            where.append(_behind(query.order, after))
        return await self._fetch(deployment_rows.query(*where).order_by(*_sorted(query.order)).limit(size))

    async def extras(self, sha256: str) -> RepoExtras | None:
        """What repos bring beside an adapter, by its digest; None where no version has it."""
        table = adapter_versions.c
        query = sa.select(table.extras).where(table.extras_sha256 == sha256).limit(1)
        async with self._engine.begin() as connection:
            found = (await connection.execute(query)).scalar()
        return None if found is None else self._rows.extras(sha256, found)

    async def live(self) -> Sequence[Deployment]:
        """Every deployment that is not deleted."""
        return await self._fetch(deployment_rows.query(deployments.c.state != State.DELETED.value))

    async def _made_by(
        self, connection: AsyncConnection, new: Deployment, key: CreateKey
    ) -> Deployment | None:
        same_key = (
            deployments.c.account == new.account,
            deployments.c.idempotency_key == key.idempotency_key,
        )
        row = (await connection.execute(deployment_rows.query(*same_key))).first()
        if row is None:
            return None
        if row.create_time + _KEY_KEPT <= new.create_time:
            await connection.execute(deployments.update().where(*same_key).values(idempotency_key=None))
            return None
        if row.idempotency_fingerprint != key.fingerprint:
            raise InvalidFieldError(
                "idempotency_key",
                key.idempotency_key,
                "unused within a day, or sent again with the same fields",
            )
        return self._rows.deployment(row)

    async def _fetch(self, query: sa.Select[Any]) -> Sequence[Deployment]:
        async with self._engine.begin() as connection:
            return [self._rows.deployment(row) for row in await connection.execute(query)]


def _live_name(account: str, deployment_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        deployments.c.account == account,
        deployments.c.deployment_id == deployment_id,
        deployments.c.state != State.DELETED.value,
    )


def _found_by(search: str) -> sa.ColumnElement[bool]:
    name = deployments.c.account + "/" + deployments.c.deployment_id
    places = (name, deployments.c.serving_repo, deployments.c.candidate_repo)
    return sa.or_(*(sa.func.lower(one).contains(search.lower(), autoescape=True) for one in places))


def _sorted(order: Order) -> Sequence[sa.ColumnElement[Any]]:
    match order:
        case Order.CREATE_TIME:
            return (deployments.c.create_time, deployments.c.uid)
        case Order.CREATE_TIME_DESCENDING:
            return (deployments.c.create_time.desc(), deployments.c.uid.desc())
        case Order.NAME:
            return (deployments.c.deployment_id,)


def _behind(order: Order, place: Place) -> sa.ColumnElement[bool]:
    moment, uid = deployments.c.create_time, deployments.c.uid
    at_once = moment == place.create_time
    match order:
        case Order.CREATE_TIME:
            return sa.or_(moment > place.create_time, sa.and_(at_once, uid > place.uid))
        case Order.CREATE_TIME_DESCENDING:
            return sa.or_(moment < place.create_time, sa.and_(at_once, uid < place.uid))
        case Order.NAME:
            return deployments.c.deployment_id > place.deployment_id
