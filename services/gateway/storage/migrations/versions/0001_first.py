"""Accounts, keys, price book, ledger, usage."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _row_id() -> sa.types.TypeEngine[int]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.String(length=39), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("max_in_flight", sa.Integer(), nullable=True),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("tokens_per_minute", sa.BigInteger(), nullable=True),
        sa.Column("idempotency_key", sa.String(length=128), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_accounts_idempotency_key")),
    )
    op.create_table(
        "prices",
        sa.Column("id", _row_id(), nullable=False),
        sa.Column("base_model", sa.String(length=256), nullable=False),
        sa.Column("prompt_price", sa.BigInteger(), nullable=False),
        sa.Column("cached_prompt_price", sa.BigInteger(), nullable=False),
        sa.Column("completion_price", sa.BigInteger(), nullable=False),
        sa.Column("valid_from", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "prompt_price >= 0 AND completion_price >= 0", name=op.f("ck_prices_not_negative")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prices")),
    )
    op.create_index(op.f("ix_prices_base_model_id"), "prices", ["base_model", "id"], unique=False)
    op.create_table(
        "balances",
        sa.Column("account_id", sa.String(length=39), nullable=False),
        sa.Column("granted", sa.BigInteger(), nullable=False),
        sa.Column("settled", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "settled >= 0 AND reserved >= 0 AND granted - settled - reserved >= 0",
            name=op.f("ck_balances_covered"),
        ),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_balances_account_id")),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_balances")),
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("account_id", sa.String(length=39), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("description", sa.String(length=256), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("revoke_time", sa.BigInteger(), nullable=True),
        sa.Column("idempotency_key", sa.String(length=128), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_keys_account_id")),
        sa.UniqueConstraint("account_id", "idempotency_key", name=op.f("uq_keys_account_id_idempotency_key")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
        sa.UniqueConstraint("hash", name=op.f("uq_keys_hash")),
    )
    op.create_index(
        op.f("ix_keys_account_id_create_time_id"), "keys", ["account_id", "create_time", "id"], unique=False
    )
    op.create_table(
        "ledger",
        sa.Column("id", _row_id(), nullable=False),
        sa.Column("account_id", sa.String(length=39), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("reference", sa.String(length=128), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("closes", _row_id(), nullable=True),
        sa.CheckConstraint(
            "(kind IN ('grant', 'reserve') AND closes IS NULL) OR (kind IN ('settle', 'void') AND closes IS NOT NULL)",
            name=op.f("ck_ledger_closes"),
        ),
        sa.CheckConstraint("amount >= 0", name=op.f("ck_ledger_not_negative")),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_ledger_account_id")),
        sa.ForeignKeyConstraint(["closes"], ["ledger.id"], name=op.f("fk_ledger_closes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
        sa.UniqueConstraint(
            "account_id", "kind", "reference", name=op.f("uq_ledger_account_id_kind_reference")
        ),
        sa.UniqueConstraint("closes", name=op.f("uq_ledger_closes")),
    )
    op.create_table(
        "usage",
        sa.Column("request_id", sa.String(length=32), nullable=False),
        sa.Column("account_id", sa.String(length=39), nullable=False),
        sa.Column("key", sa.String(length=32), nullable=False),
        sa.Column("client_request_id", sa.String(length=128), nullable=False),
        sa.Column("start_time", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("base_model", sa.String(length=256), nullable=False),
        sa.Column("adapter_digest", sa.String(length=64), nullable=False),
        sa.Column("deployment_uid", sa.String(length=64), nullable=False),
        sa.Column("price_id", _row_id(), nullable=False),
        sa.Column("prompt_price", sa.BigInteger(), nullable=False),
        sa.Column("cached_prompt_price", sa.BigInteger(), nullable=False),
        sa.Column("completion_price", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("end_time", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(length=9), nullable=False),
        sa.Column("charged", sa.Boolean(), nullable=False),
        sa.Column("worker_id", sa.String(length=200), nullable=False),
        sa.Column("first_token_time", sa.BigInteger(), nullable=True),
        sa.Column("finish_reasons", sa.String(length=256), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_usage_account_id")),
        sa.ForeignKeyConstraint(["price_id"], ["prices.id"], name=op.f("fk_usage_price_id")),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_usage")),
    )
    op.create_index(
        op.f("ix_usage_account_id_end_time_request_id"),
        "usage",
        ["account_id", "end_time", "request_id"],
        unique=False,
    )
    op.create_table(
        "open_requests",
        sa.Column("request_id", sa.String(length=32), nullable=False),
        sa.Column("account_id", sa.String(length=39), nullable=False),
        sa.Column("key", sa.String(length=32), nullable=False),
        sa.Column("client_request_id", sa.String(length=128), nullable=False),
        sa.Column("start_time", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("base_model", sa.String(length=256), nullable=False),
        sa.Column("adapter_digest", sa.String(length=64), nullable=False),
        sa.Column("deployment_uid", sa.String(length=64), nullable=False),
        sa.Column("price_id", _row_id(), nullable=False),
        sa.Column("prompt_price", sa.BigInteger(), nullable=False),
        sa.Column("cached_prompt_price", sa.BigInteger(), nullable=False),
        sa.Column("completion_price", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reserve_id", _row_id(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint_time", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_open_requests_account_id")),
        sa.ForeignKeyConstraint(["price_id"], ["prices.id"], name=op.f("fk_open_requests_price_id")),
        sa.ForeignKeyConstraint(["reserve_id"], ["ledger.id"], name=op.f("fk_open_requests_reserve_id")),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_open_requests")),
        sa.UniqueConstraint("reserve_id", name=op.f("uq_open_requests_reserve_id")),
    )
    op.create_index(
        op.f("ix_open_requests_checkpoint_time"), "open_requests", ["checkpoint_time"], unique=False
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_open_requests_checkpoint_time"), table_name="open_requests")
    op.drop_table("open_requests")
    op.drop_index(op.f("ix_usage_account_id_end_time_request_id"), table_name="usage")
    op.drop_table("usage")
    op.drop_table("ledger")
    op.drop_index(op.f("ix_keys_account_id_create_time_id"), table_name="keys")
    op.drop_table("keys")
    op.drop_table("balances")
    op.drop_index(op.f("ix_prices_base_model_id"), table_name="prices")
    op.drop_table("prices")
    op.drop_table("accounts")
