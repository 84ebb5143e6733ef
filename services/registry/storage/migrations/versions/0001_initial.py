"""Deployments, the adapter versions they name, and the workers under lease."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "adapter_versions",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("hub_repo", sa.String(200), nullable=False),
        sa.Column("commit", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("config_sha256", sa.String(64), nullable=False),
        sa.Column("weights_sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("target_modules", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_adapter_versions"),
        sa.UniqueConstraint(
            "hub_repo", "commit", "digest", name="uq_adapter_versions_hub_repo_commit_digest"
        ),
    )
    op.create_table(
        "deployments",
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("account", sa.String(200), nullable=False),
        sa.Column("deployment_id", sa.String(63), nullable=False),
        sa.Column("base_model", sa.String(63), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("serving_repo", sa.String(200), nullable=False),
        sa.Column("serving_revision", sa.String(255), nullable=False),
        sa.Column("serving_hub_token", sa.LargeBinary),
        sa.Column("serving_version_id", sa.Integer),
        sa.Column("serving_number", sa.Integer, nullable=False),
        sa.Column("candidate_repo", sa.String(200)),
        sa.Column("candidate_revision", sa.String(255)),
        sa.Column("candidate_hub_token", sa.LargeBinary),
        sa.Column("candidate_version_id", sa.Integer),
        sa.Column("candidate_number", sa.Integer),
        sa.Column("failure", sa.JSON),
        sa.Column("status_message", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("versions", sa.Integer, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("idempotency_key", sa.String(128)),
        sa.Column("idempotency_fingerprint", sa.String(64)),
        sa.PrimaryKeyConstraint("uid", name="pk_deployments"),
        sa.ForeignKeyConstraint(
            ["serving_version_id"], ["adapter_versions.id"], name="fk_deployments_serving_version_id"
        ),
        sa.ForeignKeyConstraint(
            ["candidate_version_id"], ["adapter_versions.id"], name="fk_deployments_candidate_version_id"
        ),
        sa.UniqueConstraint("account", "idempotency_key", name="uq_deployments_account_idempotency_key"),
    )
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.String(200), nullable=False),
        sa.Column("registration", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("worker_id", name="pk_workers"),
    )
    op.create_index(
        "ix_deployments_live_name",
        "deployments",
        ["account", "deployment_id"],
        unique=True,
        sqlite_where=sa.text("state != 'DELETED'"),
        postgresql_where=sa.text("state != 'DELETED'"),
    )
    op.create_index(
        "ix_deployments_account_create_time_uid", "deployments", ["account", "create_time", "uid"]
    )


def downgrade() -> None:
    op.drop_table("workers")
    op.drop_table("deployments")
    op.drop_table("adapter_versions")
