"""The registry's tables. Migrations under `migrations/` make them."""

from datetime import UTC, datetime

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class UtcDateTime(sa.TypeDecorator[datetime]):
    """A moment in UTC; SQLite, which keeps no zone, gets and gives it as UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        """To the database."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        """From the database."""
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


adapter_versions = sa.Table(
    "adapter_versions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("hub_repo", sa.String(200), nullable=False),
    sa.Column("commit", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("config_sha256", sa.String(64), nullable=False),
    sa.Column("weights_sha256", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("target_modules", sa.JSON, nullable=False),
    # Empty where the repo brings nothing beside the adapter, or its owner wants the base's.
    sa.Column("extras_sha256", sa.String(64), nullable=False),
    sa.Column("extras", sa.JSON(none_as_null=True)),
    sa.UniqueConstraint("hub_repo", "commit", "digest", "extras_sha256"),
)

deployments = sa.Table(
    "deployments",
    metadata,
    sa.Column("uid", sa.String(32), primary_key=True),
    sa.Column("account", sa.String(200), nullable=False),
    sa.Column("deployment_id", sa.String(63), nullable=False),
    sa.Column("base_model", sa.String(63), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("serving_repo", sa.String(200), nullable=False),
    sa.Column("serving_revision", sa.String(255), nullable=False),
    sa.Column("serving_hub_token", sa.LargeBinary),
    sa.Column("serving_version_id", sa.ForeignKey(adapter_versions.c.id)),
    sa.Column("serving_number", sa.Integer, nullable=False),
    sa.Column("serving_accept_base_name", sa.Boolean, nullable=False),
    sa.Column("serving_use_base_template", sa.Boolean, nullable=False),
    sa.Column("candidate_repo", sa.String(200)),
    sa.Column("candidate_revision", sa.String(255)),
    sa.Column("candidate_hub_token", sa.LargeBinary),
    sa.Column("candidate_version_id", sa.ForeignKey(adapter_versions.c.id)),
    sa.Column("candidate_number", sa.Integer),
    sa.Column("candidate_accept_base_name", sa.Boolean, nullable=False),
    sa.Column("candidate_use_base_template", sa.Boolean, nullable=False),
    sa.Column("failure", sa.JSON(none_as_null=True)),
    sa.Column("status_message", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("versions", sa.Integer, nullable=False),
    sa.Column("create_time", UtcDateTime, nullable=False),
    sa.Column("update_time", UtcDateTime, nullable=False),
    sa.Column("idempotency_key", sa.String(128)),
    sa.Column("idempotency_fingerprint", sa.String(64)),
    sa.UniqueConstraint("account", "idempotency_key"),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("worker_id", sa.String(200), primary_key=True),
    sa.Column("registration", sa.JSON, nullable=False),
)

# A name is unique among what is not deleted, and free again afterwards.
sa.Index(
    "ix_deployments_live_name",
    deployments.c.account,
    deployments.c.deployment_id,
    unique=True,
    sqlite_where=deployments.c.state != "DELETED",
    postgresql_where=deployments.c.state != "DELETED",
)
sa.Index(None, deployments.c.account, deployments.c.create_time, deployments.c.uid)
sa.Index(None, adapter_versions.c.extras_sha256)
