"""What each field of a request about deployments may hold."""

from dataclasses import replace

import pytest

from services.common.errors import InvalidFieldError
from services.registry.deployments.request_fields import CreateRequest, UpdateRequest, check_name

BASE = "tiny"
REPO = "acme/adapter"
GOOD = CreateRequest(
    deployment_id="pirate", hub_repo=REPO, revision="", hub_token="", base_model=BASE, request_id=""
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
        ("request_id", "x" * 129),
        ("request_id", "two words"),
    ],
)
def test_a_field_out_of_bounds_is_named_with_its_bound(field: str, value: str) -> None:
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
        ("request_id", "7f9c24e8-3b12-4fef-91e0-5c1b7d4a0a11"),
    ],
)
def test_what_people_send_passes(field: str, value: str) -> None:
    replace(GOOD, **{field: value}).check([BASE])


def test_the_base_may_be_left_out_where_there_is_one_only() -> None:
    replace(GOOD, base_model="").check([BASE])
    with pytest.raises(InvalidFieldError):
        replace(GOOD, base_model="").check([BASE, "other"])


def test_a_retry_may_carry_another_token_but_nothing_else() -> None:
    assert replace(GOOD, hub_token="hf_new").fingerprint() == GOOD.fingerprint()
    for field in ("deployment_id", "hub_repo", "revision", "base_model"):
        assert replace(GOOD, **{field: "other"}).fingerprint() != GOOD.fingerprint()


def test_an_update_may_leave_everything_out() -> None:
    UpdateRequest(hub_repo="", revision="", hub_token=None, etag="").check()
    with pytest.raises(InvalidFieldError):
        UpdateRequest(hub_repo="x", revision="", hub_token=None, etag="").check()


@pytest.mark.parametrize("name", ["", "pirate", "/pirate", "acme/", "a/b/c"])
def test_a_name_has_two_parts(name: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        check_name(name)
    assert caught.value.field == "name"
