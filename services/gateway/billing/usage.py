"""Usage records: what each admitted request used and cost, written once; and the bill, which sums them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.gateway.accounts.paging import Place
from services.gateway.billing.money import TokenPrice
from services.gateway.billing.rules import Ending, OpenRequest, Outcome
from services.gateway.storage import tables
from services.gateway.storage.transactions import Transactions

# What sqlalchemy types a row of a whole table as.
Row = sa.Row[tuple[object, ...]]


@dataclass(frozen=True)
class UsageRecord:
    """What one request used."""

    request: OpenRequest
    ending: Ending
    total: int
    """Pico-USD charged."""

    @property
    def place(self) -> Place:
        """Where it stands in the list of its account's records."""
        return Place(time=self.ending.time, id=self.request.request_id)


@dataclass(frozen=True)
class BillLine:
    """What was charged for one model at one price."""

    model: str
    base_model: str
    lora: bool
    price: TokenPrice
    requests: int
    prompt_tokens: int
    completion_tokens: int
    total: int


class UsageRecords:
    """Reads what the ledger wrote."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def page(
        self,
        account: str,
        model: str,
        after: Place | None,
        size: int,
    ) -> list[UsageRecord]:
        """At most `size` records of an account behind `after`, newest first; of one model when it is named."""
        columns = tables.usage.c
        statement = (
            sa.select(tables.usage)
            .where(columns.account_id == account)
            .order_by(columns.end_time.desc(), columns.request_id.desc())
            .limit(size)
        )
        if model:
            statement = statement.where(columns.model == model)
        if after is not None:
            statement = statement.where(
                sa.tuple_(columns.end_time, columns.request_id)
                < sa.tuple_(sa.literal(after.time, tables.UtcTime), sa.literal(after.id)),
            )

        async def work(connection: AsyncConnection) -> list[UsageRecord]:
            return [_record(row) for row in await connection.execute(statement)]

        return await self._transactions.run(work)

    async def bill(self, account: str, start: datetime | None, end: datetime | None) -> list[BillLine]:
        """What requests that ended from `start` until before `end` were charged, by model and price."""
        columns = tables.usage.c
        lora = (columns.adapter_digest != "").label("lora")
        group = (columns.model, columns.base_model, lora, columns.prompt_price, columns.completion_price)
        statement = (
            sa.select(
                *group,
                sa.func.count().label("requests"),
                sa.func.sum(columns.prompt_tokens).label("prompt_tokens"),
                sa.func.sum(columns.completion_tokens).label("completion_tokens"),
                sa.func.sum(columns.total).label("total"),
            )
            .where(columns.account_id == account, columns.charged)
            .group_by(*group)
            .order_by(*group)
        )
        if start is not None:
            statement = statement.where(columns.end_time >= start)
        if end is not None:
            statement = statement.where(columns.end_time < end)

        async def work(connection: AsyncConnection) -> list[BillLine]:
            return [
                BillLine(
                    model=row.model,
                    base_model=row.base_model,
                    lora=bool(row.lora),
                    price=TokenPrice(row.prompt_price, row.completion_price),
                    requests=row.requests,
                    prompt_tokens=int(row.prompt_tokens),
                    completion_tokens=int(row.completion_tokens),
                    total=int(row.total),
                )
                for row in await connection.execute(statement)
            ]

        return await self._transactions.run(work)


async def insert_usage(
    connection: AsyncConnection,
    request: OpenRequest,
    ending: Ending,
    charged: int | None,
) -> None:
    """Write a request's usage record; a second one for the same request id is a constraint's error."""
    await connection.execute(
        tables.usage.insert().values(
            **request_values(request),
            end_time=ending.time,
            completion_tokens=ending.completion_tokens,
            cached_tokens=ending.cached_tokens,
            total=charged or 0,
            outcome=ending.outcome.value,
            charged=charged is not None,
        ),
    )


def request_values(request: OpenRequest) -> Mapping[str, object]:
    """The columns that `open_requests` and `usage` share, but for completion_tokens."""
    return {
        "request_id": request.request_id,
        "account_id": request.account_id,
        "client_request_id": request.client_request_id,
        "start_time": request.start_time,
        "model": request.model,
        "base_model": request.base_model,
        "adapter_digest": request.adapter_digest,
        "price_id": request.price_id,
        "prompt_price": request.price.prompt,
        "completion_price": request.price.completion,
        "prompt_tokens": request.prompt_tokens,
    }


def request_of(row: Row) -> OpenRequest:
    """The request that a row of `open_requests` or `usage` is about."""
    return OpenRequest(
        request_id=row.request_id,
        account_id=row.account_id,
        client_request_id=row.client_request_id,
        start_time=row.start_time,
        model=row.model,
        base_model=row.base_model,
        adapter_digest=row.adapter_digest,
        price_id=row.price_id,
        price=TokenPrice(row.prompt_price, row.completion_price),
        prompt_tokens=row.prompt_tokens,
    )


def _record(row: Row) -> UsageRecord:
    return UsageRecord(
        request=request_of(row),
        ending=Ending(
            outcome=Outcome(row.outcome),
            completion_tokens=row.completion_tokens,
            cached_tokens=row.cached_tokens,
            time=row.end_time,
        ),
        total=row.total,
    )
