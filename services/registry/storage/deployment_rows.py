"""Deployments and their adapter versions as rows, and back."""

from typing import Any
from weakref import WeakValueDictionary

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.registry.deployments.deployment import (
    Adapter,
    AdapterVersion,
    Deployment,
    Failure,
    RepoExtras,
    State,
)
from services.registry.storage.tables import adapter_versions, deployments

# Any: the types of its columns are in tables.py.
Row = sa.Row[Any]


_serving = adapter_versions.alias("serving")
_candidate = adapter_versions.alias("candidate")


def query(*where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Deployments with the versions that they name."""
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


async def values(connection: AsyncConnection, one: Deployment) -> dict[str, Any]:  # Any: a row's columns
    """The row of a deployment; versions that it names are added where they are new."""
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
        f"{prefix}_use_base_template": adapter is not None and adapter.use_base_template,
        f"{prefix}_version_id": None if version is None else await _version_id(connection, version),
    }


async def _version_id(connection: AsyncConnection, version: AdapterVersion) -> int:
    """The row of a version, added where it is new."""
    extras = version.extras
    columns = {
        "hub_repo": version.hub_repo,
        "commit": version.commit,
        "digest": version.digest,
        "config_sha256": version.config_sha256,
        "weights_sha256": version.weights_sha256,
        "size_bytes": version.size_bytes,
        "rank": version.rank,
        "target_modules": list(version.target_modules),
        "extras_sha256": extras.sha256,
        "extras": _extras_values(extras) if extras.sha256 else None,
    }
    table = adapter_versions.c
    query = sa.select(table.id).where(
        table.hub_repo == version.hub_repo,
        table.commit == version.commit,
        table.digest == version.digest,
        table.extras_sha256 == extras.sha256,
    )
    found = (await connection.execute(query)).scalar()
    if found is None:
        inserted = adapter_versions.insert().values(columns).returning(table.id)
        found = (await connection.execute(inserted)).scalar_one()
    return int(found)


def _extras_values(extras: RepoExtras) -> dict[str, Any]:  # Any: JSON values
    return {
        "chat_template": extras.chat_template,
        "special_tokens": dict(extras.special_tokens),
        "end_token_ids": list(extras.end_token_ids),
    }


class RowReader:
    """Makes values of rows. What many repos bring alike, as a family's chat template, is held once."""

    def __init__(self) -> None:
        self._extras: WeakValueDictionary[str, RepoExtras] = WeakValueDictionary()

    def deployment(self, row: Row) -> Deployment:
        """A row of `query`."""
        return Deployment(
            uid=row.uid,
            account=row.account,
            deployment_id=row.deployment_id,
            base_model=row.base_model,
            state=State(row.state),
            serving=self._adapter(row, "serving"),
            candidate=None if row.candidate_repo is None else self._adapter(row, "candidate"),
            failure=row.failure and Failure(**row.failure),
            status_message=row.status_message,
            version=row.version,
            generation=row.generation,
            versions=row.versions,
            create_time=row.create_time,
            update_time=row.update_time,
        )

    def _adapter(self, row: Row, prefix: str) -> Adapter:
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
                extras=self.extras(columns[f"{prefix}_extras_sha256"], columns[f"{prefix}_extras"]),
            )
        return Adapter(
            hub_repo=columns[f"{prefix}_repo"],
            revision=columns[f"{prefix}_revision"],
            hub_token=columns[f"{prefix}_hub_token"],
            version=version,
            number=columns[f"{prefix}_number"],
            accept_base_name=columns[f"{prefix}_accept_base_name"],
            use_base_template=columns[f"{prefix}_use_base_template"],
        )

    # Any: JSON values.
    def extras(self, sha256: str, stored: dict[str, Any] | None) -> RepoExtras:
        """What a repo brings, of its two columns."""
        known = self._extras.get(sha256)
        if known is None:
            found = stored or {}
            known = RepoExtras(
                found.get("chat_template", ""),
                found.get("special_tokens", {}),
                tuple(found.get("end_token_ids", ())),
            )
            self._extras[sha256] = known
        return known
