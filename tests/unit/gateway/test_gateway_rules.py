"""Prices and what a request is charged."""

from datetime import UTC, datetime

import pytest

from services.gateway.billing.money import OddPriceError, TokenPrice
from services.gateway.billing.rules import Ending, Outcome, charge

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PRICE = TokenPrice(prompt=20_000, completion=60_000)


def ending(outcome: Outcome, completion_tokens: int) -> Ending:
    return Ending(outcome=outcome, completion_tokens=completion_tokens, cached_tokens=0, time=NOW)


def test_tokens_through_an_adapter_cost_exactly_three_halves() -> None:
    for prompt, completion in [(0, 0), (2, 4), (20_000, 60_000), (10**15 + 2, 10**15)]:
        lora = TokenPrice(prompt, completion).through_adapter()
        assert (2 * lora.prompt, 2 * lora.completion) == (3 * prompt, 3 * completion)


@pytest.mark.parametrize("price", [TokenPrice(1, 2), TokenPrice(2, 3)])
def test_a_price_without_whole_three_halves_is_refused(price: TokenPrice) -> None:
    with pytest.raises(OddPriceError):
        price.through_adapter()


def test_a_completed_answer_costs_its_prompt_and_its_tokens() -> None:
    assert charge(PRICE, 7, ending(Outcome.COMPLETED, 3)) == 7 * 20_000 + 3 * 60_000


def test_a_cancelled_answer_costs_its_prompt_and_what_was_produced() -> None:
    assert charge(PRICE, 7, ending(Outcome.CANCELLED, 2)) == 7 * 20_000 + 2 * 60_000


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_end_before_the_first_token_costs_nothing(outcome: Outcome) -> None:
    assert charge(PRICE, 7, ending(outcome, 0)) is None


def test_our_error_costs_nothing() -> None:
    assert charge(PRICE, 7, ending(Outcome.FAILED, 50)) is None


def test_a_price_of_nothing_settles_at_nothing() -> None:
    assert charge(TokenPrice(0, 0), 7, ending(Outcome.COMPLETED, 3)) == 0
