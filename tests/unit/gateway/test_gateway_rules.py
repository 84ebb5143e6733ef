"""Prices and what a request is charged."""

from datetime import UTC, datetime

import pytest

from services.gateway.billing.money import OddPriceError, TokenPrice
from services.gateway.billing.rules import Ending, Outcome, charge

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PRICE = TokenPrice(20_000, 20_000, 60_000)


def ending(
    outcome: Outcome, completion_tokens: int, *, cached: int = 0, prompt_computed: bool = False
) -> Ending:
    return Ending(
        outcome=outcome,
        completion_tokens=completion_tokens,
        cached_tokens=cached,
        time=NOW,
        prompt_computed=prompt_computed,
    )


def test_tokens_through_an_adapter_cost_exactly_three_halves() -> None:
    for prompt, completion in [(0, 0), (2, 4), (20_000, 60_000), (10**15 + 2, 10**15)]:
        lora = TokenPrice(prompt, prompt // 2 * 2, completion).through_adapter()
        assert (2 * lora.prompt, 2 * lora.completion) == (3 * prompt, 3 * completion)
        assert 2 * lora.cached_prompt == 3 * (prompt // 2 * 2)


@pytest.mark.parametrize("price", [TokenPrice(1, 0, 2), TokenPrice(2, 1, 4), TokenPrice(2, 2, 3)])
def test_a_price_without_whole_three_halves_is_refused(price: TokenPrice) -> None:
    with pytest.raises(OddPriceError):
        price.through_adapter()


def test_a_completed_answer_costs_its_prompt_and_its_tokens() -> None:
    assert charge(PRICE, 7, ending(Outcome.COMPLETED, 3)) == 7 * 20_000 + 3 * 60_000


def test_a_cancelled_answer_costs_its_prompt_and_what_was_produced() -> None:
    assert charge(PRICE, 7, ending(Outcome.CANCELLED, 2)) == 7 * 20_000 + 2 * 60_000


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_end_before_the_prompt_was_computed_costs_nothing(outcome: Outcome) -> None:
    assert charge(PRICE, 7, ending(outcome, 0)) is None


def test_a_prompt_that_was_computed_is_paid_by_who_leaves_without_a_token() -> None:
    assert charge(PRICE, 7, ending(Outcome.CANCELLED, 0, prompt_computed=True)) == 7 * 20_000


def test_an_answer_that_ends_by_itself_without_a_token_costs_nothing() -> None:
    assert charge(PRICE, 7, ending(Outcome.COMPLETED, 0, prompt_computed=True)) is None


def test_prompt_tokens_from_the_cache_cost_what_the_price_says_of_them() -> None:
    price = TokenPrice(20_000, 2_000, 60_000)
    assert charge(price, 7, ending(Outcome.COMPLETED, 1, cached=5)) == 2 * 20_000 + 5 * 2_000 + 60_000
    assert charge(price, 7, ending(Outcome.COMPLETED, 1, cached=9)) == 7 * 2_000 + 60_000


def test_our_error_costs_nothing() -> None:
    assert charge(PRICE, 7, ending(Outcome.FAILED, 50, prompt_computed=True)) is None


def test_a_price_of_nothing_settles_at_nothing() -> None:
    assert charge(TokenPrice(0, 0, 0), 7, ending(Outcome.COMPLETED, 3)) == 0
