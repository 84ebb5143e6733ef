"""The price book: what each base model has cost, from when on."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.clock import Clock
from services.gateway.billing.money import TokenPrice
from services.gateway.storage import tables
from services.gateway.storage.transactions import Transactions


@dataclass(frozen=True)
class PriceRow:
    """A row of the price book."""

    id: int
    price: TokenPrice
    """The base model's own price."""


class PriceBook:
    """Appends a row when the registry's price of a base model differs from the newest row."""

    def __init__(self, transactions: Transactions, clock: Clock) -> None:
        self._transactions = transactions
        self._clock = clock
        self._newest: dict[str, PriceRow] = {}

    async def in_force(self, base_model: str, price: TokenPrice) -> PriceRow:
        """The row to stamp on a request, where `price` is what the route says now."""
        known = self._newest.get(base_model)
        if known is not None and known.price == price:
            return known

        async def work(connection: AsyncConnection) -> PriceRow:
            newest = await _newest(connection, base_model)
            if newest is not None and newest.price == price:
                return newest
            inserted = await connection.execute(
                tables.prices.insert().values(
                    base_model=base_model,
                    prompt_price=price.prompt,
                    cached_prompt_price=price.cached_prompt,
                    completion_price=price.completion,
                    valid_from=self._clock.now(),
                ),
            )
            (row_id,) = inserted.inserted_primary_key or (0,)
            return PriceRow(id=row_id, price=price)

        row = await self._transactions.run(work)
        self._newest[base_model] = row
        return row


async def _newest(connection: AsyncConnection, base_model: str) -> PriceRow | None:
    result = await connection.execute(
        sa.select(tables.prices)
        .where(tables.prices.c.base_model == base_model)
        .order_by(tables.prices.c.id.desc())
        .limit(1),
    )
    row = result.one_or_none()
    if row is None:
        return None
    price = TokenPrice(row.prompt_price, row.cached_prompt_price, row.completion_price)
    return PriceRow(id=row.id, price=price)
