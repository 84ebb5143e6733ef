"""Names, request ids and page tokens."""

import base64
from datetime import UTC, datetime

import pytest

from services.common.errors import InvalidFieldError, NotFoundError
from services.gateway.accounts.names import (
    check_account_name,
    check_client_request_id,
    check_idempotency_key,
    check_known_account,
    check_known_key,
)
from services.gateway.accounts.paging import Place, page_size, page_token, place_of

PLACE = Place(time=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), id="abc")
LISTING = ("usage", "acme", "")


@pytest.mark.parametrize("name", ["ab", "a-1", "a" * 39, "acme"])
def test_a_good_account_name_passes(name: str) -> None:
    check_account_name(name)


@pytest.mark.parametrize("name", ["", "a", "1a", "-a", "A1", "a_b", "a/b", "é1", "a" * 40, "ab\n"])
def test_a_bad_account_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidFieldError):
        check_account_name(name)


@pytest.mark.parametrize("name", ["x" * 10_000, "a/b", "", "A", "\x00"])
def test_what_cannot_be_a_name_is_not_looked_up(name: str) -> None:
    for check in (check_known_account, check_known_key):
        with pytest.raises(NotFoundError) as caught:
            check(name)
        assert len(caught.value.message) < 300


def test_an_idempotency_key_may_be_left_out_only_where_it_is_not_needed() -> None:
    check_idempotency_key("")
    with pytest.raises(InvalidFieldError):
        check_idempotency_key("", required=True)


@pytest.mark.parametrize("value", ["x" * 129, "é", "a\nb"])
def test_an_id_of_the_callers_is_printable_ascii(value: str) -> None:
    for check in (check_client_request_id, check_idempotency_key):
        with pytest.raises(InvalidFieldError):
            check(value)


def test_a_page_token_leads_back_to_its_place() -> None:
    assert place_of(page_token(LISTING, PLACE), LISTING) == PLACE
    assert place_of("", LISTING) is None


@pytest.mark.parametrize("listing", [("usage", "rival", ""), ("usage", "acme", "tiny"), ("keys", "acme", "")])
def test_a_token_of_another_list_is_refused(listing: tuple[str, ...]) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        place_of(page_token(LISTING, PLACE), listing)
    assert caught.value.field == "page_token"


@pytest.mark.parametrize("token", ["x", "not a token", "é", "AAAA", base64.b64encode(b"x" * 60).decode()])
def test_a_made_up_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidFieldError):
        place_of(token, LISTING)


def test_a_token_with_a_letter_changed_is_refused() -> None:
    token = page_token(LISTING, PLACE)
    changed = token[:20] + ("A" if token[20] != "A" else "B") + token[21:]
    with pytest.raises(InvalidFieldError):
        place_of(changed, LISTING)


def test_page_sizes_have_a_default_and_a_cap() -> None:
    assert [page_size(asked) for asked in (0, 1, 1_000, 5_000)] == [50, 1, 1_000, 1_000]
    with pytest.raises(InvalidFieldError):
        page_size(-1)
