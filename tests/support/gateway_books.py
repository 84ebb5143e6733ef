"""The ledger and what stands around it, on a database, and the invariants that they keep."""

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.database import open_database
from services.gateway.__main__ import MIGRATIONS
from services.gateway.accounts.accounts import AccountLimits, Accounts
from services.gateway.billing.ledger import Balance, Ledger
from services.gateway.billing.money import TokenPrice
from services.gateway.billing.prices import PriceBook
from services.gateway.billing.rules import Ending, OpenRequest, Outcome
from services.gateway.billing.usage import UsageRecords
from services.gateway.storage import tables
from services.gateway.storage.transactions import Transactions
from tests.support.gateway_clock import ManualClock

PRICE = TokenPrice(10, 10, 100)
CREDIT = 1_000_000
DATABASES = ("sqlite",)
"""What the contract is run on."""


@asynccontextmanager
async def open_books(database: str, folder: Path) -> AsyncIterator["Books"]:
    """With one account, `acme`."""
    urls = {"sqlite": f"sqlite+aiosqlite:///{folder}/books.db"}
    engine = await open_database(urls[database], MIGRATIONS)
    made = Books(Transactions(engine), ManualClock())
    await made.accounts.create("acme", AccountLimits(), CREDIT, "")
    yield made
    await engine.dispose()


class Books:
    """The ledger and what stands around it, on one database."""

    def __init__(self, transactions: Transactions, clock: ManualClock) -> None:
        self.transactions = transactions
        self.clock = clock
        self.accounts = Accounts(transactions, clock)
        self.ledger = Ledger(transactions, clock)
        self.prices = PriceBook(transactions, clock)
        self.records = UsageRecords(transactions)
        self._made = 0

    async def request(self, account: str = "acme", *, prompt: int = 10, **changes: object) -> OpenRequest:
        self._made += 1
        request = OpenRequest(
            request_id=f"{account}-{self._made}",
            account_id=account,
            key="k",
            client_request_id="",
            start_time=self.clock.now(),
            model="base",
            base_model="base",
            adapter_digest="",
            deployment_uid="",
            price_id=(await self.prices.in_force("base", PRICE)).id,
            price=PRICE,
            prompt_tokens=prompt,
        )
        return dataclasses.replace(request, **changes)  # type: ignore[arg-type]  # named by the tests

    def ending(self, outcome: Outcome = Outcome.COMPLETED, tokens: int = 5) -> Ending:
        return Ending(outcome=outcome, completion_tokens=tokens, cached_tokens=0, time=self.clock.now())

    async def rows(self, table: sa.Table) -> list[sa.Row[tuple[object, ...]]]:
        async def work(connection: AsyncConnection) -> list[sa.Row[tuple[object, ...]]]:
            return list(await connection.execute(sa.select(table)))

        return await self.transactions.run(work)

    async def kinds(self) -> list[tuple[object, object]]:
        return [(row.kind, row.amount) for row in await self.rows(tables.ledger)]

    async def check(self, account: str = "acme") -> None:
        """The invariants: sums are the ledger's, each reserve is closed once, each close has its record."""
        rows = [row for row in await self.rows(tables.ledger) if row.account_id == account]
        by_kind = {
            kind: [row for row in rows if row.kind == kind] for kind in ("grant", "reserve", "settle", "void")
        }
        closed = [row.closes for row in by_kind["settle"] + by_kind["void"]]
        assert len(closed) == len(set(closed))
        still_open = [row for row in by_kind["reserve"] if row.id not in closed]
        balance = await self.ledger.balance(account)
        assert balance == Balance(
            granted=sum(row.amount for row in by_kind["grant"]),
            settled=sum(row.amount for row in by_kind["settle"]),
            reserved=sum(row.amount for row in still_open),
        )
        assert balance.available >= 0
        usage = [row for row in await self.rows(tables.usage) if row.account_id == account]
        references = [row.reference for row in by_kind["settle"] + by_kind["void"]]
        assert sorted(row.request_id for row in usage) == sorted(references)
        assert sum(row.total for row in usage) == balance.settled
        opened = [row for row in await self.rows(tables.open_requests) if row.account_id == account]
        assert sorted(row.reserve_id for row in opened) == sorted(row.id for row in still_open)
