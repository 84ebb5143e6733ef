"""Deployments and adapter versions in the database. Every method is one transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.common.errors import AlreadyExistsError, InvalidFieldError, NotFoundError
from services.registry.deployments.deployment import Adapter, AdapterVersion, Deployment, Failure, State
from services.registry.deployments.list_query import ListQuery, Order, Place
from services.registry.storage.tables import adapter_versions, deployments

_KEY_KEPT = timedelta(days=1)

# Any: the types of its columns are in tables.py.
_Row = sa.Row[Any]


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

    async def insert(self, new: Deployment, key: CreateKey | None) -> Deployment:
        """Add `new`, or return what a request with the same key made before.

        Raises AlreadyExistsError where the name is taken, InvalidFieldError where the key came with other
        fields.
        """
        async with self._engine.begin() as connection:
            if key is not None:
                made = await _made_by(connection, new, key)
                if made is not None:
                    return made
            if (await connection.execute(_query(*_live_name(new.account, new.deployment_id)))).first():
                raise AlreadyExistsError("deployment", new.name)
            values = await _values(connection, new)
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
                await connection.execute(_query(deployments.c.uid == uid).with_for_update(of=deployments))
            ).first()
            if row is None:
                raise NotFoundError("deployment", uid)
            before = _deployment(row)
            after = replace(transition(before), version=before.version + 1, update_time=now)
            await connection.execute(
                deployments.update().where(deployments.c.uid == uid).values(await _values(connection, after))
            )
        return after

    async def get(self, account: str, deployment_id: str) -> Deployment | None:
        """The live deployment of a name."""
        found = await self._fetch(_query(*_live_name(account, deployment_id)))
        return found[0] if found else None

    async def get_by_uid(self, uid: str) -> Deployment | None:
        """A deployment, deleted or not."""
        found = await self._fetch(_query(deployments.c.uid == uid))
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
        return await self._fetch(_query(*where).order_by(*_sorted(query.order)).limit(size))

    async def live(self) -> Sequence[Deployment]:
        """Every deployment that is not deleted."""
        return await self._fetch(_query(deployments.c.state != State.DELETED.value))

    async def _fetch(self, query: sa.Select[Any]) -> Sequence[Deployment]:
        async with self._engine.begin() as connection:
            return [_deployment(row) for row in await connection.execute(query)]


_serving = adapter_versions.alias("serving")
_candidate = adapter_versions.alias("candidate")


def _query(*where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    columns = [
        column.label(f"{table.name}_{column.name}") for table in (_serving, _candidate) for column in table.c
    ]
    return (
        sa.select(deployments, *columns)
        .select_from(
            deployments.outerjoin(_serving, deployments.c.serving_version_id == _serving.c.id).outerjoin(
                _candidate, deployments.c.candidate_version_id == _candidate.c.id
            )
        )
        .where(*where)
    )


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


async def _made_by(connection: AsyncConnection, new: Deployment, key: CreateKey) -> Deployment | None:
    same_key = (
        deployments.c.account == new.account,
        deployments.c.idempotency_key == key.idempotency_key,
    )
    row = (await connection.execute(_query(*same_key))).first()
    if row is None:
        return None
    if row.create_time + _KEY_KEPT <= new.create_time:
        await connection.execute(deployments.update().where(*same_key).values(idempotency_key=None))
        return None
    if row.idempotency_fingerprint != key.fingerprint:
        raise InvalidFieldError(
            "idempotency_key", key.idempotency_key, "unused within a day, or sent again with the same fields"
        )
    return _deployment(row)


async def _values(connection: AsyncConnection, one: Deployment) -> dict[str, Any]:  # Any: a row's columns
    failure = one.failure
    return {
        "uid": one.uid,
        "account": one.account,
        "deployment_id": one.deployment_id,
        "base_model": one.base_model,
        "state": one.state.value,
        **await _adapter_values(connection, "serving", one.serving),
        **await _adapter_values(connection, "candidate", one.candidate),
        "failure": failure
        and {"reason": failure.reason, "message": failure.message, "metadata": dict(failure.metadata)},
        "status_message": one.status_message,
        "version": one.version,
        "generation": one.generation,
        "versions": one.versions,
        "create_time": one.create_time,
        "update_time": one.update_time,
    }


async def _adapter_values(
    connection: AsyncConnection, prefix: str, adapter: Adapter | None
) -> dict[str, Any]:  # Any: a row's columns
    version = None if adapter is None else adapter.version
    return {
        f"{prefix}_repo": None if adapter is None else adapter.hub_repo,
        f"{prefix}_revision": None if adapter is None else adapter.revision,
        f"{prefix}_hub_token": None if adapter is None else adapter.hub_token,
        f"{prefix}_number": None if adapter is None else adapter.number,
        f"{prefix}_accept_base_name": adapter is not None and adapter.accept_base_name,
        f"{prefix}_version_id": None if version is None else await _version_id(connection, version),
    }


async def _version_id(connection: AsyncConnection, version: AdapterVersion) -> int:
    """The row of a version, added where it is new."""
    values = {
        "hub_repo": version.hub_repo,
        "commit": version.commit,
        "digest": version.digest,
        "config_sha256": version.config_sha256,
        "weights_sha256": version.weights_sha256,
        "size_bytes": version.size_bytes,
        "rank": version.rank,
        "target_modules": list(version.target_modules),
    }
    table = adapter_versions.c
    query = sa.select(table.id).where(
        table.hub_repo == version.hub_repo, table.commit == version.commit, table.digest == version.digest
    )
    found = (await connection.execute(query)).scalar()
    if found is None:
        inserted = adapter_versions.insert().values(values).returning(table.id)
        found = (await connection.execute(inserted)).scalar_one()
    return int(found)


def _deployment(row: _Row) -> Deployment:
    return Deployment(
        uid=row.uid,
        account=row.account,
        deployment_id=row.deployment_id,
        base_model=row.base_model,
        state=State(row.state),
        serving=_adapter_of(row, "serving"),
        candidate=None if row.candidate_repo is None else _adapter_of(row, "candidate"),
        failure=row.failure and Failure(**row.failure),
        status_message=row.status_message,
        version=row.version,
        generation=row.generation,
        versions=row.versions,
        create_time=row.create_time,
        update_time=row.update_time,
    )


def _adapter_of(row: _Row, prefix: str) -> Adapter:
    columns = row._mapping  # noqa: SLF001  # SQLAlchemy's own name for access by string
    version = None
    if columns[f"{prefix}_version_id"] is not None:
        version = AdapterVersion(
            hub_repo=columns[f"{prefix}_hub_repo"],
            commit=columns[f"{prefix}_commit"],
            config_sha256=columns[f"{prefix}_config_sha256"],
            weights_sha256=columns[f"{prefix}_weights_sha256"],
            size_bytes=columns[f"{prefix}_size_bytes"],
            rank=columns[f"{prefix}_rank"],
            target_modules=tuple(columns[f"{prefix}_target_modules"]),
        )
    return Adapter(
        hub_repo=columns[f"{prefix}_repo"],
        revision=columns[f"{prefix}_revision"],
        hub_token=columns[f"{prefix}_hub_token"],
        version=version,
        number=columns[f"{prefix}_number"],
        accept_base_name=columns[f"{prefix}_accept_base_name"],
    )
