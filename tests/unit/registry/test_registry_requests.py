"""What each field of a request about deployments may hold."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from services.common.errors import InvalidFieldError
from services.registry.deployments.deployment import Adapter, State
from services.registry.deployments.list_query import ListQuery, Order, Place
from services.registry.deployments.request_fields import CreateRequest, UpdateRequest, check_name

BASE = "tiny"
REPO = "acme/adapter"
GOOD = CreateRequest(
    deployment_id="pirate", hub_repo=REPO, revision="", hub_token="", base_model=BASE, idempotency_key=""
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("deployment_id", ""),
        ("deployment_id", "Pirate"),
        ("deployment_id", "-pirate"),
        ("deployment_id", "a/b"),
        ("deployment_id", "a" * 64),
        ("deployment_id", BASE),
        ("hub_repo", ""),
        ("hub_repo", "adapter"),
        ("hub_repo", "a/b/c"),
        ("hub_repo", "../adapter"),
        ("hub_repo", "acme/a--b"),
        ("hub_repo", "acme/adapter.git"),
        ("hub_repo", "https://huggingface.co/acme/adapter"),
        ("hub_repo", "acme/" + "a" * 97),
        ("revision", "a b"),
        ("revision", "../../etc"),
        ("revision", "-x"),
        ("revision", "x" * 256),
        ("hub_token", "hf_with\nnewline"),
        ("hub_token", "x" * 513),
        ("base_model", "nope"),
        ("idempotency_key", "x" * 129),
        ("idempotency_key", "two words"),
    ],
)
def test_a_field_out_of_bounds_is_named_with_its_bound(field: str, value: Any) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        replace(GOOD, **{field: value}).check([BASE, "other"])
    assert caught.value.field == field
    assert "must be" in caught.value.message
    if field == "hub_token":
        assert value not in caught.value.message
    if field == "base_model":
        assert "tiny, other" in caught.value.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("deployment_id", "0"),
        ("deployment_id", "llama-3.1-pirate"),
        ("hub_repo", "Org_1/My.Adapter-v2"),
        ("revision", "main"),
        ("revision", "refs/pr/1"),
        ("revision", "v1.0+cpu"),
        ("revision", "0123456789abcdef0123456789abcdef01234567"),
        ("hub_token", "hf_abcDEF123"),
        ("idempotency_key", "7f9c24e8-3b12-4fef-91e0-5c1b7d4a0a11"),
    ],
)
def test_what_people_send_passes(field: str, value: Any) -> None:
    replace(GOOD, **{field: value}).check([BASE])


def test_the_base_may_be_left_out_where_there_is_one_only() -> None:
    replace(GOOD, base_model="").check([BASE])
    with pytest.raises(InvalidFieldError):
        replace(GOOD, base_model="").check([BASE, "other"])


def test_a_retry_may_carry_another_token_but_nothing_else() -> None:
    assert replace(GOOD, hub_token="hf_new").fingerprint() == GOOD.fingerprint()
    for field in ("deployment_id", "hub_repo", "revision", "base_model"):
        assert replace(GOOD, **dict[str, Any]({field: "other"})).fingerprint() != GOOD.fingerprint()


def test_an_update_may_leave_everything_out() -> None:
    UpdateRequest().check()
    for repo in ("x", ""):
        with pytest.raises(InvalidFieldError):
            UpdateRequest(hub_repo=repo).check()


def test_an_update_keeps_what_it_does_not_name() -> None:
    wanted = Adapter("acme/a", "v1", b"sealed", number=3)
    assert UpdateRequest().adapter(wanted, b"new") == Adapter("acme/a", "v1", b"new")
    assert UpdateRequest(hub_repo="acme/a").adapter(wanted, None).revision == "v1"
    assert UpdateRequest(revision="").adapter(wanted, None).revision == ""
    assert UpdateRequest(revision="v2").adapter(wanted, None) == Adapter("acme/a", "v2")


def test_a_revision_of_one_repo_is_not_asked_of_another() -> None:
    wanted = Adapter("acme/a", "v1")
    assert UpdateRequest(hub_repo="acme/b").adapter(wanted, None) == Adapter("acme/b", "")
    assert UpdateRequest(hub_repo="acme/b", revision="v1").adapter(wanted, None) == Adapter("acme/b", "v1")


@pytest.mark.parametrize(
    ("request_", "alone"),
    [
        (UpdateRequest(hub_token="hf_x"), True),
        (UpdateRequest(hub_token=""), True),
        (UpdateRequest(hub_token="hf_x", etag="e"), True),
        (UpdateRequest(), False),
        (UpdateRequest(hub_token="hf_x", revision="v1"), False),
        (UpdateRequest(hub_token="hf_x", hub_repo="acme/a"), False),
    ],
)
def test_only_a_token_by_itself_is_of_the_token_alone(request_: UpdateRequest, alone: bool) -> None:
    assert request_.is_of_the_token_alone is alone


@pytest.mark.parametrize(
    "name", ["", "pirate", "/pirate", "acme/", "a/b/c", "acme/\0", "a b/c", "x" * 300 + "/y"]
)
def test_a_name_has_two_parts(name: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        check_name(name)
    assert caught.value.field == "name"


class TestLists:
    @pytest.mark.parametrize("search", ["x" * 129, "\U0001f3f4" * 33, "a\0b", "line\nbreak", "x" * 10**6])
    def test_a_search_is_bounded_in_bytes_and_printable(self, search: str) -> None:
        with pytest.raises(InvalidFieldError) as caught:
            ListQuery(search=search).check()
        assert caught.value.field == "search"

    def test_a_search_of_128_bytes_passes(self) -> None:
        ListQuery(search="x" * 128).check()
        ListQuery(search="\U0001f3f4" * 32).check()

    def test_each_part_of_a_query_tells_two_apart(self) -> None:
        queries = [
            ListQuery(),
            ListQuery(search="a"),
            ListQuery(order=Order.NAME),
            ListQuery(states=(State.FAILED,)),
            ListQuery(states=(State.FAILED, State.RUNNING)),
        ]
        assert len({query.words() for query in queries}) == len(queries)
        assert ListQuery(states=(State.RUNNING, State.FAILED)).words() == queries[-1].words()

    def test_a_place_is_found_again(self) -> None:
        place = Place(datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC), "u1", "pirate")
        assert Place.parse(place.text()) == place
        assert Place.parse("") is None
