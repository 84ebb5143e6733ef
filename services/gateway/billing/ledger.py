"""The ledger: grants, reservations, and the settle or void that closes each reservation.

Rows are only ever inserted. A balance is what was granted, less what was settled, less what open reservations
hold; `balances` carries these sums and moves with the ledger in the same transaction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common import errors
from services.common.clock import Clock
from services.gateway.billing.money import INT64_MAX
from services.gateway.billing.rules import Ending, OpenRequest, charge
from services.gateway.billing.usage import insert_usage, request_of, request_values
from services.gateway.storage import tables
from services.gateway.storage.transactions import Transactions


@dataclass(frozen=True)
class Balance:
    """An account's sums, in pico-USD."""

    granted: int
    settled: int
    reserved: int

    @property
    def available(self) -> int:
        """What a new request may reserve."""
        return self.granted - self.settled - self.reserved


class Ledger:
    """Every movement of money."""

    def __init__(self, transactions: Transactions, clock: Clock) -> None:
        self._transactions = transactions
        self._clock = clock

    async def grant(self, account: str, amount: int, reference: str) -> Balance:
        """Add `amount` to an account's credit, once for each `reference`; returns the balance after it.

        Raises NotFoundError for an unknown account, InvalidFieldError for an amount that does not fit, or for
        a reference that was used with another amount.
        """
        return await self._transactions.run(
            lambda connection: grant(connection, account, amount, reference, self._clock.now()),
        )

    async def balance(self, account: str) -> Balance:
        """An account's sums. Raises NotFoundError."""
        return await self._transactions.run(lambda connection: balance(connection, account))

    async def reserve(self, request: OpenRequest, amount: int) -> None:
        """Set `amount` aside for a request. Raises NoCreditError when the balance does not cover it."""

        async def work(connection: AsyncConnection) -> None:
            if not await _set_aside(connection, request.account_id, amount):
                held = await balance(connection, request.account_id)
                raise errors.NoCreditError(request.account_id, amount, held.available)
            row_id = await _insert(
                connection,
                account_id=request.account_id,
                kind="reserve",
                reference=request.request_id,
                amount=amount,
                create_time=request.start_time,
            )
            await connection.execute(
                tables.open_requests.insert().values(
                    **request_values(request),
                    completion_tokens=0,
                    reserve_id=row_id,
                    reserved=amount,
                    checkpoint_time=request.start_time,
                ),
            )

        await self._transactions.run(work)

    async def checkpoint(self, produced: Mapping[str, int]) -> None:
        """Note how many tokens each request, by id, has produced. Closed requests are left alone."""
        if not produced:
            return
        now = self._clock.now()
        statement = (
            tables.open_requests.update()
            .where(tables.open_requests.c.request_id == sa.bindparam("id"))
            .values(completion_tokens=sa.bindparam("tokens"), checkpoint_time=now)
        )
        rows = [{"id": request_id, "tokens": tokens} for request_id, tokens in produced.items()]

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(statement, rows)

        await self._transactions.run(work)

    async def close(self, request_id: str, ending: Ending) -> bool:
        """Settle or void a reservation and write its usage record. False when it is closed already."""

        async def work(connection: AsyncConnection) -> bool:
            result = await connection.execute(
                tables.open_requests.delete()
                .where(tables.open_requests.c.request_id == request_id)
                .returning(*tables.open_requests.c),
            )
            row = result.one_or_none()
            if row is None:
                return False
            await _close(connection, row, ending)
            return True

        return await self._transactions.run(work)

    async def abandoned(self, before: datetime) -> list[tuple[str, int]]:
        """(request id, tokens at its last checkpoint) of open requests that nobody has kept since `before`."""
        opened = tables.open_requests.c

        async def work(connection: AsyncConnection) -> list[tuple[str, int]]:
            result = await connection.execute(
                sa.select(opened.request_id, opened.completion_tokens)
                .where(opened.checkpoint_time < before)
                .order_by(opened.checkpoint_time),
            )
            return [(row.request_id, row.completion_tokens) for row in result]

        return await self._transactions.run(work)


async def open_account(connection: AsyncConnection, account: str) -> None:
    """Give a new account its row of sums."""
    await connection.execute(
        tables.balances.insert().values(account_id=account, granted=0, settled=0, reserved=0),
    )


async def balance(connection: AsyncConnection, account: str) -> Balance:
    """An account's sums, locked until the transaction ends. Raises NotFoundError."""
    result = await connection.execute(
        sa.select(tables.balances).where(tables.balances.c.account_id == account).with_for_update(),
    )
    row = result.one_or_none()
    if row is None:
        raise errors.NotFoundError("account", account)
    return Balance(granted=row.granted, settled=row.settled, reserved=row.reserved)


async def grant(
    connection: AsyncConnection,
    account: str,
    amount: int,
    reference: str,
    now: datetime,
) -> Balance:
    """`Ledger.grant` within a transaction."""
    held = await balance(connection, account)
    ledger = tables.ledger.c
    result = await connection.execute(
        sa.select(ledger.amount).where(
            ledger.account_id == account,
            ledger.kind == "grant",
            ledger.reference == reference,
        ),
    )
    earlier = result.scalar_one_or_none()
    if earlier is not None:
        if earlier != amount:
            raise errors.InvalidFieldError(
                "idempotency_key",
                reference,
                f"unused, or repeated with the amount of its first use, {earlier}",
            )
        return held
    room = INT64_MAX - held.granted
    if amount > room:
        raise errors.InvalidFieldError(
            "amount_pico_usd",
            amount,
            f"at most {room}, so that the sum of all grants fits 64 bits",
        )
    await _insert(
        connection,
        account_id=account,
        kind="grant",
        reference=reference,
        amount=amount,
        create_time=now,
    )
    await _move(connection, account, granted=amount)
    return await balance(connection, account)


async def _set_aside(connection: AsyncConnection, account: str, amount: int) -> bool:
    """Whether the balance covered it. One statement, so that nothing comes between looking and taking."""
    if amount > INT64_MAX:
        return False
    sums = tables.balances.c
    result = await connection.execute(
        tables.balances.update()
        .where(sums.account_id == account, sums.granted - sums.settled - sums.reserved >= amount)
        .values(reserved=sums.reserved + amount),
    )
    return result.rowcount == 1


# Row: what sqlalchemy returns; its columns are those of `open_requests`.
async def _close(connection: AsyncConnection, row: sa.Row[tuple[object, ...]], ending: Ending) -> None:
    request = request_of(row)
    amount = charge(request.price, request.prompt_tokens, ending)
    await _insert(
        connection,
        account_id=request.account_id,
        kind="void" if amount is None else "settle",
        reference=request.request_id,
        amount=amount or 0,
        create_time=ending.time,
        closes=row.reserve_id,
    )
    await _move(connection, request.account_id, settled=amount or 0, reserved=-row.reserved)
    await insert_usage(connection, request, ending, amount)


async def _insert(
    connection: AsyncConnection,
    *,
    account_id: str,
    kind: str,
    reference: str,
    amount: int,
    create_time: datetime,
    closes: int | None = None,
) -> int:
    result = await connection.execute(
        tables.ledger.insert().values(
            account_id=account_id,
            kind=kind,
            reference=reference,
            amount=amount,
            create_time=create_time,
            closes=closes,
        ),
    )
    (row_id,) = result.inserted_primary_key or (0,)
    return int(row_id)


async def _move(
    connection: AsyncConnection,
    account: str,
    *,
    granted: int = 0,
    settled: int = 0,
    reserved: int = 0,
) -> None:
    sums = tables.balances.c
    await connection.execute(
        tables.balances.update()
        .where(sums.account_id == account)
        .values(
            granted=sums.granted + granted,
            settled=sums.settled + settled,
            reserved=sums.reserved + reserved,
        ),
    )
