"""Whether an owner says that an adapter is for its base, whatever the adapter's config names."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("deployments") as table:
        for place in ("serving", "candidate"):
            table.add_column(
                sa.Column(f"{place}_accept_base_name", sa.Boolean, nullable=False, server_default=sa.false())
            )


def downgrade() -> None:
    with op.batch_alter_table("deployments") as table:
        for place in ("serving", "candidate"):
            table.drop_column(f"{place}_accept_base_name")
