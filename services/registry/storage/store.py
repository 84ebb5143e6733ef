"""Deployments and adapter versions in the database. Every method is one transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.common.errors import AlreadyExistsError, InvalidFieldError, NotFoundError
from services.registry.deployments.deployment import Adapter, AdapterVersion, Deployment, Failure, State
from services.registry.storage.tables import adapter_versions, deployments

_REQUEST_ID_KEPT = timedelta(days=1)

# Any: the types of its columns are in tables.py.
_Row = sa.Row[Any]


@dataclass(frozen=True)
class RequestKey:
    """A creating request, so that its retry finds what it made (AIP-155)."""

    request_id: str
    fingerprint: str
    """Of the fields sent with it."""


class Store:
    """Reads and writes. Rows of deleted deployments stay; they answer retries and keep uids unique."""

    def __init__(self, engine: AsyncEngine) -> None:
        """`engine` is open and its schema is up to date."""
        self._engine = engine

    async def insert(self, new: Deployment, request: RequestKey | None) -> Deployment:
        """Add `new`, or return what the same request made before.

        Raises AlreadyExistsError where the name is taken, InvalidFieldError where the request id came with
        other fields.
        """
        async with self._engine.begin() as connection:
            if request is not None:
                made = await _made_by(connection, new, request)
                if made is not None:
                    return made
            if (await connection.execute(_query(*_live_name(new.account, new.deployment_id)))).first():
                raise AlreadyExistsError("deployment", new.name)
            values = await _values(connection, new)
            if request is not None:
                values |= {"request_id": request.request_id, "request_fingerprint": request.fingerprint}
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

    async def page(self, account: str, after: str, size: int) -> Sequence[Deployment]:
        """At most `size` of an account's live deployments whose ids come behind `after`, by id."""
        return await self._fetch(
            _query(
                deployments.c.account == account,
                deployments.c.deployment_id > after,
                deployments.c.state != State.DELETED.value,
            )
            .order_by(deployments.c.deployment_id)
            .limit(size)
        )

    async def live(self) -> Sequence[Deployment]:
        """Every deployment that is not deleted."""
        return await self._fetch(_query(deployments.c.state != State.DELETED.value))

    async def _fetch(self, query: sa.Select[Any]) -> Sequence[Deployment]:
        async with self._engine.begin() as connection:
            return [_deployment(row) for row in await connection.execute(query)]


_adapter = adapter_versions.alias("adapter")
_candidate = adapter_versions.alias("candidate")


def _query(*where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    columns = [
        column.label(f"{table.name}_{column.name}") for table in (_adapter, _candidate) for column in table.c
    ]
    return (
        sa.select(deployments, *columns)
        .select_from(
            deployments.outerjoin(_adapter, deployments.c.adapter_version_id == _adapter.c.id).outerjoin(
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


async def _made_by(connection: AsyncConnection, new: Deployment, request: RequestKey) -> Deployment | None:
    same_request = (
        deployments.c.account == new.account,
        deployments.c.request_id == request.request_id,
    )
    row = (await connection.execute(_query(*same_request))).first()
    if row is None:
        return None
    if row.create_time + _REQUEST_ID_KEPT <= new.create_time:
        await connection.execute(deployments.update().where(*same_request).values(request_id=None))
        return None
    if row.request_fingerprint != request.fingerprint:
        raise InvalidFieldError(
            "request_id", request.request_id, "unused within a day, or sent again with the same fields"
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
        **await _adapter_values(connection, "adapter", one.adapter),
        **await _adapter_values(connection, "candidate", one.candidate),
        "failure": failure
        and {"reason": failure.reason, "message": failure.message, "metadata": dict(failure.metadata)},
        "status_message": one.status_message,
        "version": one.version,
        "generation": one.generation,
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
        adapter=_adapter_of(row, "adapter"),
        candidate=None if row.candidate_repo is None else _adapter_of(row, "candidate"),
        failure=row.failure and Failure(**row.failure),
        status_message=row.status_message,
        version=row.version,
        generation=row.generation,
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
    )
