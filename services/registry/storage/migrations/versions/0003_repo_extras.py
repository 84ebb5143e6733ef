"""What an adapter's repo brings beside the adapter, pinned with its version, and whether its owner wants that."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_UNIQUE = "uq_adapter_versions_hub_repo_commit_digest"


def upgrade() -> None:
    with op.batch_alter_table("adapter_versions") as table:
        table.add_column(sa.Column("extras_sha256", sa.String(64), nullable=False, server_default=""))
        table.add_column(sa.Column("extras", sa.JSON))
        table.drop_constraint(_UNIQUE, type_="unique")
        table.create_unique_constraint(
            f"{_UNIQUE}_extras_sha256", ["hub_repo", "commit", "digest", "extras_sha256"]
        )
    op.create_index("ix_adapter_versions_extras_sha256", "adapter_versions", ["extras_sha256"])
    with op.batch_alter_table("deployments") as table:
        for place in ("serving", "candidate"):
            table.add_column(
                sa.Column(f"{place}_use_base_template", sa.Boolean, nullable=False, server_default=sa.false())
            )


def downgrade() -> None:
    with op.batch_alter_table("deployments") as table:
        for place in ("serving", "candidate"):
            table.drop_column(f"{place}_use_base_template")
    op.drop_index("ix_adapter_versions_extras_sha256", "adapter_versions")
    with op.batch_alter_table("adapter_versions") as table:
        table.drop_constraint(f"{_UNIQUE}_extras_sha256", type_="unique")
        table.create_unique_constraint(_UNIQUE, ["hub_repo", "commit", "digest"])
        table.drop_column("extras")
        table.drop_column("extras_sha256")
