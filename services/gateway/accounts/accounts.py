"""Accounts and their limits."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common import errors
from services.common.clock import Clock
from services.gateway.billing import ledger
from services.gateway.limits.limiter import Limits
from services.gateway.storage import tables
from services.gateway.storage.transactions import Transactions

_LIMIT_BOUNDS = {
    "max_in_flight": (1, 1_000_000),
    "requests_per_minute": (0, 60_000_000),
    "tokens_per_minute": (0, 100_000_000_000),
}


@dataclass(frozen=True)
class AccountLimits:
    """An account's own bounds; None takes the operator's default."""

    max_in_flight: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def check(self) -> None:
        """Raise InvalidFieldError for a bound that makes no sense."""
        for name, (least, most) in _LIMIT_BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise errors.InvalidFieldError(f"limits.{name}", value, f"{least} .. {most}")

    def over(self, defaults: Limits) -> Limits:
        """The bounds in force."""
        return Limits(
            max_in_flight=_or(self.max_in_flight, defaults.max_in_flight),
            requests_per_minute=_or(self.requests_per_minute, defaults.requests_per_minute),
            tokens_per_minute=_or(self.tokens_per_minute, defaults.tokens_per_minute),
        )


@dataclass(frozen=True)
class Account:
    """A tenant."""

    id: str
    create_time: datetime
    limits: AccountLimits


class Accounts:
    """The accounts of this operator."""

    def __init__(self, transactions: Transactions, clock: Clock) -> None:
        self._transactions = transactions
        self._clock = clock

    async def create(
        self, account_id: str, limits: AccountLimits, credit: int, idempotency_key: str
    ) -> Account:
        """Open an account under a checked name, with a first credit in pico-USD, which may be 0.

        A repeat with the same key, where one is given, returns the account that the first call opened.
        Raises InvalidFieldError and AlreadyExistsError.
        """
        limits.check()
        if credit < 0:
            raise errors.InvalidFieldError("credit_pico_usd", credit, "0 or more")
        account = Account(id=account_id, create_time=self._clock.now(), limits=limits)

        async def work(connection: AsyncConnection) -> Account:
            earlier = await _opened_by(connection, idempotency_key)
            if earlier is not None:
                if earlier.id != account_id:
                    bound = f"unused, or repeated with the account of its first use, {earlier.id}"
                    raise errors.InvalidFieldError("idempotency_key", idempotency_key, bound)
                return earlier
            if await _find(connection, account_id) is not None:
                raise errors.AlreadyExistsError("account", account_id)
            await connection.execute(
                tables.accounts.insert().values(
                    id=account.id,
                    create_time=account.create_time,
                    max_in_flight=limits.max_in_flight,
                    requests_per_minute=limits.requests_per_minute,
                    tokens_per_minute=limits.tokens_per_minute,
                    idempotency_key=idempotency_key or None,
                ),
            )
            await ledger.open_account(connection, account_id)
            if credit:
                # Grants by name have an idempotency key; the one at opening is the only one without.
                await ledger.grant(connection, account_id, credit, "", account.create_time)
            return account

        return await self._transactions.run(work)

    async def get(self, account_id: str) -> Account:
        """Raises NotFoundError."""
        account = await self._transactions.run(lambda connection: _find(connection, account_id))
        if account is None:
            raise errors.NotFoundError("account", account_id)
        return account


async def _opened_by(connection: AsyncConnection, idempotency_key: str) -> Account | None:
    if not idempotency_key:
        return None
    statement = sa.select(tables.accounts).where(tables.accounts.c.idempotency_key == idempotency_key)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else account_of(row)


async def _find(connection: AsyncConnection, account_id: str) -> Account | None:
    result = await connection.execute(sa.select(tables.accounts).where(tables.accounts.c.id == account_id))
    row = result.one_or_none()
    return None if row is None else account_of(row)


# Row: what sqlalchemy returns for any statement that selects the columns of `accounts`.
def account_of(row: sa.Row[tuple[object, ...]]) -> Account:
    """The account of a row of `accounts`."""
    return Account(
        id=row.id,
        create_time=row.create_time,
        limits=AccountLimits(
            max_in_flight=row.max_in_flight,
            requests_per_minute=row.requests_per_minute,
            tokens_per_minute=row.tokens_per_minute,
        ),
    )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
