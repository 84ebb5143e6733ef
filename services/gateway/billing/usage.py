"""Usage records: what each admitted request used and cost, written once; and the bill, which sums them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common import errors
from services.gateway.accounts.paging import Place
from services.gateway.billing.money import TokenPrice
from services.gateway.billing.rules import Ending, OpenRequest, Outcome
from services.gateway.storage import tables
from services.gateway.storage.transactions import Transactions

# What sqlalchemy types a row of a whole table as.
Row = sa.Row[tuple[object, ...]]

_MAX_NAME = 256


def check_span(start: datetime | None, end: datetime | None, path: str) -> None:
    """Raise InvalidFieldError, naming the field under `path`, for a span that ends before it begins."""
    if start is not None and end is not None and end < start:
        raise errors.InvalidFieldError(f"{path}end_time", end.isoformat(), "not before start_time")


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
class UsageFilter:
    """Which records; what is empty or None does not matter."""

    model: str = ""
    base_model: str = ""
    key: str = ""
    start: datetime | None = None
    end: datetime | None = None
    """By end time, the first included, the second not."""

    def check(self) -> None:
        """Raise InvalidFieldError for a name that none can have, and a span that ends before it begins."""
        for field in ("model", "base_model", "key"):
            value = getattr(self, field)
            if len(value) > _MAX_NAME:
                raise errors.InvalidFieldError(f"filter.{field}", value, f"at most {_MAX_NAME} characters")
        check_span(self.start, self.end, "filter.")

    @property
    def words(self) -> tuple[str, ...]:
        """It as words, for page tokens."""
        times = ("" if one is None else one.isoformat() for one in (self.start, self.end))
        return (self.model, self.base_model, self.key, *times)


@dataclass(frozen=True)
class BillLine:
    """What was charged for one model at one price."""

    model: str
    base_model: str
    lora: bool
    price: TokenPrice
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    total: int


class UsageRecords:
    """Reads what the ledger wrote."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def page(
        self,
        account: str,
        only: UsageFilter,
        after: Place | None,
        size: int,
    ) -> list[UsageRecord]:
        """At most `size` records of an account behind `after`, newest first; of those that `only` lets pass."""
        columns = tables.usage.c
        statement = (
            sa.select(tables.usage)
            .where(columns.account_id == account)
            .order_by(columns.end_time.desc(), columns.request_id.desc())
            .limit(size)
        )
        for column, value in (
            (columns.model, only.model),
            (columns.base_model, only.base_model),
            (columns.key, only.key),
        ):
            if value:
                statement = statement.where(column == value)
        if only.start is not None:
            statement = statement.where(columns.end_time >= only.start)
        if only.end is not None:
            statement = statement.where(columns.end_time < only.end)
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
        prices = (columns.prompt_price, columns.cached_prompt_price, columns.completion_price)
        group = (columns.model, columns.base_model, lora, *prices)
        statement = (
            sa.select(
                *group,
                sa.func.count().label("requests"),
                sa.func.sum(columns.prompt_tokens).label("prompt_tokens"),
                sa.func.sum(columns.cached_tokens).label("cached_tokens"),
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
                    price=TokenPrice(row.prompt_price, row.cached_prompt_price, row.completion_price),
                    requests=row.requests,
                    prompt_tokens=int(row.prompt_tokens),
                    cached_tokens=int(row.cached_tokens),
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
            worker_id=ending.worker_id,
            first_token_time=ending.first_token_time,
            finish_reasons=",".join(str(int(number)) for number in ending.finish_reasons),
        ),
    )


def request_values(request: OpenRequest) -> Mapping[str, str | int | datetime]:
    """The columns that `open_requests` and `usage` share, but for completion_tokens."""
    return {
        "request_id": request.request_id,
        "account_id": request.account_id,
        "key": request.key,
        "client_request_id": request.client_request_id,
        "start_time": request.start_time,
        "model": request.model,
        "base_model": request.base_model,
        "adapter_digest": request.adapter_digest,
        "deployment_uid": request.deployment_uid,
        "price_id": request.price_id,
        "prompt_price": request.price.prompt,
        "cached_prompt_price": request.price.cached_prompt,
        "completion_price": request.price.completion,
        "prompt_tokens": request.prompt_tokens,
    }


def request_of(row: Row) -> OpenRequest:
    """The request that a row of `open_requests` or `usage` is about."""
    return OpenRequest(
        request_id=row.request_id,
        account_id=row.account_id,
        key=row.key,
        client_request_id=row.client_request_id,
        start_time=row.start_time,
        model=row.model,
        base_model=row.base_model,
        adapter_digest=row.adapter_digest,
        deployment_uid=row.deployment_uid,
        price_id=row.price_id,
        price=TokenPrice(row.prompt_price, row.cached_prompt_price, row.completion_price),
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
            prompt_computed=row.charged,
            worker_id=row.worker_id,
            first_token_time=row.first_token_time,
            finish_reasons=tuple(int(number) for number in row.finish_reasons.split(",") if number),
        ),
        total=row.total,
    )
