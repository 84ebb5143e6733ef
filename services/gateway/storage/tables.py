"""The gateway's tables. Money is in whole pico-USD, times in whole microseconds since 1970."""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC, kept as whole microseconds: the same in every database, and never without a zone."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    # sa's own signature: the driver's value may be of any type.
    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else _EPOCH + value * _MICROSECOND


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    },
)
# SQLite counts rows only in a column that is exactly INTEGER.
_RowId = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_AccountId = sa.String(39)
_RequestId = sa.String(32)

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", _AccountId, primary_key=True),
    sa.Column("create_time", UtcTime, nullable=False),
    sa.Column("max_in_flight", sa.Integer),
    sa.Column("requests_per_minute", sa.Integer),
    sa.Column("tokens_per_minute", sa.BigInteger),
    # Null where the operator gave none.
    sa.Column("idempotency_key", sa.String(128), unique=True),
)

# The ledger's sums by account, changed in the same transaction as the ledger: a balance is one row to read,
# and to charge it only when it suffices is one statement.
balances = sa.Table(
    "balances",
    metadata,
    sa.Column("account_id", sa.ForeignKey("accounts.id"), primary_key=True),
    sa.Column("granted", sa.BigInteger, nullable=False),
    sa.Column("settled", sa.BigInteger, nullable=False),
    sa.Column("reserved", sa.BigInteger, nullable=False),
    sa.CheckConstraint("settled >= 0 AND reserved >= 0 AND granted - settled - reserved >= 0", "covered"),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("account_id", sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("prefix", sa.String(16), nullable=False),
    sa.Column("description", sa.String(256), nullable=False),
    sa.Column("create_time", UtcTime, nullable=False),
    sa.Column("revoke_time", UtcTime),
    sa.Column("idempotency_key", sa.String(128)),
    sa.UniqueConstraint("account_id", "idempotency_key"),
    sa.Index(None, "account_id", "create_time", "id"),
)

# A base model's prices; the newest row is in force.
prices = sa.Table(
    "prices",
    metadata,
    sa.Column("id", _RowId, primary_key=True),
    sa.Column("base_model", sa.String(256), nullable=False),
    sa.Column("prompt_price", sa.BigInteger, nullable=False),
    sa.Column("cached_prompt_price", sa.BigInteger, nullable=False),
    sa.Column("completion_price", sa.BigInteger, nullable=False),
    sa.Column("valid_from", UtcTime, nullable=False),
    sa.CheckConstraint("prompt_price >= 0 AND completion_price >= 0", "not_negative"),
    sa.Index(None, "base_model", "id"),
)

# Rows are inserted and never changed. A settle or void closes one reserve, and a reserve is closed once.
ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("id", _RowId, primary_key=True),
    sa.Column("account_id", sa.ForeignKey("accounts.id"), nullable=False),
    sa.Column("kind", sa.String(8), nullable=False),
    # The request id, or for a grant its own.
    sa.Column("reference", sa.String(128), nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("create_time", UtcTime, nullable=False),
    sa.Column("closes", sa.ForeignKey("ledger.id"), unique=True),
    sa.UniqueConstraint("account_id", "kind", "reference"),
    sa.CheckConstraint("amount >= 0", "not_negative"),
    sa.CheckConstraint(
        "(kind IN ('grant', 'reserve') AND closes IS NULL) OR (kind IN ('settle', 'void') AND closes IS NOT NULL)",
        "closes",
    ),
)


def _request_columns() -> list[sa.Column[object]]:
    """What is known of a request from its admission on."""
    return [
        sa.Column("request_id", _RequestId, primary_key=True),
        sa.Column("account_id", sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("client_request_id", sa.String(128), nullable=False),
        sa.Column("start_time", UtcTime, nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("base_model", sa.String(256), nullable=False),
        sa.Column("adapter_digest", sa.String(64), nullable=False),
        sa.Column("deployment_uid", sa.String(64), nullable=False),
        sa.Column("price_id", sa.ForeignKey("prices.id"), nullable=False),
        sa.Column("prompt_price", sa.BigInteger, nullable=False),
        sa.Column("cached_prompt_price", sa.BigInteger, nullable=False),
        sa.Column("completion_price", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    ]


# Requests in flight: their reservations, and what they had produced at the last checkpoint.
open_requests = sa.Table(
    "open_requests",
    metadata,
    *_request_columns(),
    sa.Column("reserve_id", sa.ForeignKey("ledger.id"), nullable=False, unique=True),
    sa.Column("reserved", sa.BigInteger, nullable=False),
    sa.Column("checkpoint_time", UtcTime, nullable=False),
    sa.Index(None, "checkpoint_time"),
)

# One row for each request that was admitted, written when it ends.
usage = sa.Table(
    "usage",
    metadata,
    *_request_columns(),
    sa.Column("end_time", UtcTime, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("outcome", sa.String(9), nullable=False),
    # Whether the reservation was settled; a voided one is on no bill.
    sa.Column("charged", sa.Boolean, nullable=False),
    sa.Column("worker_id", sa.String(200), nullable=False),
    sa.Column("first_token_time", UtcTime),
    # Numbers of inference.v1.FinishReason in the order of choices, with commas between.
    sa.Column("finish_reasons", sa.String(256), nullable=False),
    sa.Index(None, "account_id", "end_time", "request_id"),
)
