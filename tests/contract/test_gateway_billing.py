"""What the ledger keeps to, on every database that it runs on."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.errors import InvalidFieldError, NoCreditError, NotFoundError
from services.gateway.accounts.accounts import AccountLimits
from services.gateway.billing.ledger import Balance
from services.gateway.billing.money import INT64_MAX
from services.gateway.billing.rules import Outcome
from services.gateway.billing.usage import UsageFilter
from services.gateway.storage import tables
from tests.support.gateway_books import CREDIT, DATABASES, Books, open_books


@pytest.fixture(params=DATABASES)
async def books(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Books]:
    async with open_books(request.param, tmp_path) as made:
        yield made


async def test_a_request_that_is_settled_costs_what_it_used(books: Books) -> None:
    request = await books.request()
    await books.ledger.reserve(request, 5_000)
    assert await books.ledger.balance("acme") == Balance(CREDIT, 0, 5_000)
    assert await books.ledger.close(request.request_id, books.ending(tokens=5))
    assert await books.ledger.balance("acme") == Balance(CREDIT, 600, 0)
    assert await books.kinds() == [("grant", CREDIT), ("reserve", 5_000), ("settle", 600)]
    await books.check()


@pytest.mark.parametrize(
    ("outcome", "tokens"),
    [(Outcome.FAILED, 5), (Outcome.CANCELLED, 0), (Outcome.FAILED, 0), (Outcome.COMPLETED, 0)],
)
async def test_a_request_that_is_voided_costs_nothing_and_is_recorded(
    books: Books, outcome: Outcome, tokens: int
) -> None:
    request = await books.request()
    await books.ledger.reserve(request, 5_000)
    await books.ledger.close(request.request_id, books.ending(outcome, tokens))
    assert await books.ledger.balance("acme") == Balance(CREDIT, 0, 0)
    assert (await books.kinds())[-1] == ("void", 0)
    (record,) = await books.records.page("acme", UsageFilter(), None, 10)
    assert (record.total, record.ending.outcome, record.ending.completion_tokens) == (0, outcome, tokens)
    assert record.request == request


async def test_the_second_close_of_a_request_changes_nothing(books: Books) -> None:
    request = await books.request()
    await books.ledger.reserve(request, 5_000)
    assert await books.ledger.close(request.request_id, books.ending(tokens=5))
    assert not await books.ledger.close(request.request_id, books.ending(Outcome.FAILED))
    await books.check()
    assert (await books.ledger.balance("acme")).settled == 600


async def test_a_reservation_above_the_balance_is_refused_and_leaves_no_trace(books: Books) -> None:
    await books.ledger.reserve(await books.request(), CREDIT - 99)
    with pytest.raises(NoCreditError) as caught:
        await books.ledger.reserve(await books.request(), 100)
    assert caught.value.metadata["available_pico_usd"] == "99"
    await books.ledger.reserve(await books.request(), 99)
    assert len(await books.rows(tables.open_requests)) == 2
    await books.check()


async def test_a_cost_beyond_64_bits_is_no_credit_and_no_crash(books: Books) -> None:
    with pytest.raises(NoCreditError):
        await books.ledger.reserve(await books.request(), 10**30)


async def test_reservations_that_race_never_overdraw(books: Books) -> None:
    """Fifty at once for a balance of ten."""
    requests = [await books.request() for _ in range(50)]
    tries = [books.ledger.reserve(request, CREDIT // 10) for request in requests]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert outcomes.count(None) == 10
    assert sum(isinstance(one, NoCreditError) for one in outcomes) == 40
    await books.check()


async def test_a_grant_counts_once_for_each_reference(books: Books) -> None:
    for _ in range(3):
        assert (await books.ledger.grant("acme", 50, "gift-1")).granted == CREDIT + 50
    assert (await books.ledger.grant("acme", 50, "gift-2")).granted == CREDIT + 100
    await books.check()


async def test_grants_that_race_with_one_reference_count_once(books: Books) -> None:
    await asyncio.gather(*[books.ledger.grant("acme", 50, "gift") for _ in range(20)])
    assert (await books.ledger.balance("acme")).granted == CREDIT + 50


async def test_a_reference_cannot_be_used_again_with_another_amount(books: Books) -> None:
    await books.ledger.grant("acme", 50, "gift")
    with pytest.raises(InvalidFieldError) as caught:
        await books.ledger.grant("acme", 51, "gift")
    assert caught.value.field == "idempotency_key"


async def test_the_same_reference_serves_two_accounts(books: Books) -> None:
    await books.accounts.create("rival", AccountLimits(), 0, "")
    await books.ledger.grant("acme", 50, "gift")
    assert (await books.ledger.grant("rival", 50, "gift")).granted == 50


async def test_grants_that_would_overflow_64_bits_are_refused(books: Books) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        await books.ledger.grant("acme", INT64_MAX - CREDIT + 1, "too much")
    assert caught.value.field == "amount_pico_usd"
    await books.ledger.grant("acme", INT64_MAX - CREDIT, "all there is")
    assert (await books.ledger.balance("acme")).available == INT64_MAX


async def test_an_unknown_account_has_no_money(books: Books) -> None:
    with pytest.raises(NotFoundError):
        await books.ledger.grant("nobody", 1, "x")
    with pytest.raises(NotFoundError):
        await books.ledger.balance("nobody")


async def test_the_database_itself_refuses_a_second_close(books: Books) -> None:
    request = await books.request()
    await books.ledger.reserve(request, 5_000)
    await books.ledger.close(request.request_id, books.ending())
    (reserve,) = [row for row in await books.rows(tables.ledger) if row.kind == "reserve"]

    async def void(connection: AsyncConnection) -> None:
        await connection.execute(
            tables.ledger.insert().values(
                account_id="acme",
                kind="void",
                reference=request.request_id,
                amount=0,
                create_time=books.clock.now(),
                closes=reserve.id,
            )
        )

    with pytest.raises(IntegrityError):
        await books.transactions.run(void)


@pytest.mark.parametrize("values", [{"kind": "settle"}, {"kind": "grant", "amount": -1}, {"kind": "gift"}])
async def test_the_database_itself_refuses_rows_that_make_no_sense(
    books: Books, values: dict[str, object]
) -> None:
    row = {"account_id": "acme", "reference": "x", "amount": 1, "create_time": books.clock.now(), **values}

    async def insert(connection: AsyncConnection) -> None:
        await connection.execute(tables.ledger.insert().values(row))

    with pytest.raises(IntegrityError):
        await books.transactions.run(insert)


async def test_the_database_itself_refuses_a_second_usage_record(books: Books) -> None:
    request = await books.request()
    await books.ledger.reserve(request, 5_000)
    await books.ledger.close(request.request_id, books.ending())
    (written,) = await books.rows(tables.usage)

    async def again(connection: AsyncConnection) -> None:
        await connection.execute(tables.usage.insert().values(dict(written._mapping)))

    with pytest.raises(IntegrityError):
        await books.transactions.run(again)


async def test_requests_without_a_client_id_each_have_their_record(books: Books) -> None:
    for _ in range(3):
        request = await books.request(client_request_id="")
        await books.ledger.reserve(request, 5_000)
        await books.ledger.close(request.request_id, books.ending())
    assert len(await books.records.page("acme", UsageFilter(), None, 10)) == 3


async def test_only_requests_that_nobody_keeps_are_abandoned(books: Books) -> None:
    dead, alive = await books.request(), await books.request()
    for request in (dead, alive):
        await books.ledger.reserve(request, 5_000)
    await books.ledger.checkpoint({dead.request_id: 3, alive.request_id: 4})
    books.clock.advance(10)
    await books.ledger.checkpoint({alive.request_id: 7})
    books.clock.advance(10)
    before = books.clock.now() - timedelta(seconds=15)
    assert await books.ledger.abandoned(before) == [(dead.request_id, 3)]


async def test_a_checkpoint_of_a_closed_request_does_nothing(books: Books) -> None:
    request = await books.request()
    await books.ledger.reserve(request, 5_000)
    await books.ledger.close(request.request_id, books.ending(tokens=5))
    await books.ledger.checkpoint({request.request_id: 50})
    await books.ledger.checkpoint({})
    await books.check()


@pytest.mark.parametrize("seed", range(3))
async def test_the_invariants_hold_under_random_traffic_and_cancellation(books: Books, seed: int) -> None:
    generator = random.Random(seed)

    async def one() -> None:
        request = await books.request(prompt=generator.randint(1, 50))
        try:
            await books.ledger.reserve(request, request.price.cost(request.prompt_tokens, 50))
        except NoCreditError:
            return
        await books.ledger.checkpoint({request.request_id: generator.randint(0, 50)})
        outcome = generator.choice(list(Outcome))
        for _ in range(generator.randint(1, 2)):
            await books.ledger.close(request.request_id, books.ending(outcome, generator.randint(0, 50)))

    tasks = [asyncio.create_task(one()) for _ in range(120)]
    for task in generator.sample(tasks, 40):
        await asyncio.sleep(0.001)
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert not [one for one in outcomes if isinstance(one, Exception)]
    await books.check()
    books.clock.advance(60)
    for request_id, tokens in await books.ledger.abandoned(books.clock.now()):
        assert await books.ledger.close(request_id, books.ending(Outcome.CANCELLED, tokens))
    assert (await books.ledger.balance("acme")).reserved == 0
    await books.check()
