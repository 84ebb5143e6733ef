"""The price book, usage records and the bill, on every database that they run on."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from services.gateway.billing.money import TokenPrice
from services.gateway.billing.prices import PriceBook
from services.gateway.billing.rules import Outcome
from services.gateway.billing.usage import UsageFilter
from services.gateway.storage import tables
from tests.support.gateway_books import DATABASES, PRICE, Books, open_books


@pytest.fixture(params=DATABASES)
async def books(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Books]:
    async with open_books(request.param, tmp_path) as made:
        yield made


async def test_a_price_is_written_when_it_changes_and_only_then(books: Books) -> None:
    first = await books.prices.in_force("base", PRICE)
    assert await books.prices.in_force("base", PRICE) == first
    other_gateway = PriceBook(books.transactions, books.clock)
    assert await other_gateway.in_force("base", PRICE) == first
    raised = await books.prices.in_force("base", TokenPrice(20, 20, 200))
    assert raised.id > first.id
    assert await other_gateway.in_force("base", TokenPrice(20, 20, 200)) == raised
    back = await books.prices.in_force("base", PRICE)
    assert back.id > raised.id
    assert len(await books.rows(tables.prices)) == 3


async def test_the_bill_sums_by_model_and_price_and_leaves_out_what_cost_nothing(books: Books) -> None:
    lora = {"model": "acme/pirate", "adapter_digest": "d" * 64, "price": PRICE.through_adapter()}
    ended = [
        ({}, books.ending(tokens=5)),
        ({}, books.ending(Outcome.CANCELLED, 2)),
        ({}, books.ending(Outcome.FAILED, 9)),
        (lora, books.ending(tokens=5)),
        ({"price": TokenPrice(1, 1, 1)}, books.ending(tokens=1)),
    ]
    for changes, ending in ended:
        request = await books.request(**changes)  # type: ignore[arg-type]  # named above
        await books.ledger.reserve(request, 5_000)
        await books.ledger.close(request.request_id, ending)
    lines = await books.records.bill("acme", None, None)
    assert [
        (line.model, line.lora, line.price.prompt, line.requests, line.completion_tokens, line.total)
        for line in lines
    ] == [
        ("acme/pirate", True, 15, 1, 5, 900),
        ("base", False, 1, 1, 1, 11),
        ("base", False, 10, 2, 7, 900),
    ]
    assert sum(line.total for line in lines) == (await books.ledger.balance("acme")).settled


async def test_a_bill_counts_from_its_start_until_before_its_end(books: Books) -> None:
    moments = []
    for _ in range(3):
        request = await books.request()
        await books.ledger.reserve(request, 5_000)
        await books.ledger.close(request.request_id, books.ending())
        moments.append(books.clock.now())
        books.clock.advance(1)
    (line,) = await books.records.bill("acme", moments[0], moments[2])
    assert line.requests == 2
    assert await books.records.bill("acme", moments[2] + timedelta(seconds=1), None) == []


async def test_usage_pages_lead_through_every_record_once_newest_first(books: Books) -> None:
    for place in range(7):
        request = await books.request(model="even" if place % 2 == 0 else "odd")
        await books.ledger.reserve(request, 5_000)
        await books.ledger.close(request.request_id, books.ending())
        # Some end in the same moment.
        books.clock.advance(place % 3)
    seen, after = [], None
    while page := await books.records.page("acme", UsageFilter(), after, 2):
        seen += [record.request.request_id for record in page]
        after = page[-1].place
    everything = await books.records.page("acme", UsageFilter(), None, 100)
    assert seen == [record.request.request_id for record in everything]
    assert len(set(seen)) == 7
    assert [one.ending.time for one in everything] == sorted(
        (one.ending.time for one in everything), reverse=True
    )
    assert len(await books.records.page("acme", UsageFilter(model="odd"), None, 100)) == 3
