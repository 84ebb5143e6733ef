"""What is sealed opens for its purpose only; page tokens are sealed places."""

import pytest

from services.common.errors import InvalidFieldError
from services.registry.deployments.page_tokens import PageTokens, page_size
from services.registry.deployments.sealing import SealBrokenError, Sealer, token_purpose

SEALER = Sealer(bytes(32))
PURPOSE = token_purpose("acme", "uid-1")
TOKEN = "hf_secret"


def test_what_was_sealed_opens_again() -> None:
    assert SEALER.open(SEALER.seal(TOKEN, PURPOSE), PURPOSE) == TOKEN


def test_two_seals_of_one_token_differ_and_show_nothing() -> None:
    first, second = SEALER.seal(TOKEN, PURPOSE), SEALER.seal(TOKEN, PURPOSE)
    assert first != second
    assert TOKEN.encode() not in first


@pytest.mark.parametrize(
    "purpose",
    [
        token_purpose("other", "uid-1"),
        token_purpose("acme", "uid-2"),
        token_purpose("acmeu", "id-1"),
        ("page-token", "acme", "uid-1"),
        (),
    ],
)
def test_moved_to_another_deployment_it_does_not_open(purpose: tuple[str, ...]) -> None:
    with pytest.raises(SealBrokenError):
        SEALER.open(SEALER.seal(TOKEN, PURPOSE), purpose)


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(SealBrokenError):
        Sealer(b"\x01" * 32).open(SEALER.seal(TOKEN, PURPOSE), PURPOSE)


def test_changed_or_cut_bytes_do_not_open() -> None:
    sealed = SEALER.seal(TOKEN, PURPOSE)
    for broken in (b"", sealed[:5], sealed[:-1], bytes([sealed[0] ^ 1]) + sealed[1:], sealed + b"x"):
        with pytest.raises(SealBrokenError):
            SEALER.open(broken, PURPOSE)


def test_a_page_token_leads_to_its_place_in_its_own_list() -> None:
    tokens = PageTokens(SEALER, ("ListDeployments", "acme"))
    token = tokens.write("pirate")
    assert tokens.read(token) == "pirate"
    assert tokens.read("") == ""
    for list_ in (("ListDeployments", "other"), ("ListBaseModels",)):
        with pytest.raises(InvalidFieldError) as caught:
            PageTokens(SEALER, list_).read(token)
        assert caught.value.field == "page_token"


@pytest.mark.parametrize("token", ["pirate", "!", "cGlyYXRl", "é", "a" * 10_000])
def test_a_made_up_page_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidFieldError):
        PageTokens(SEALER, ("ListBaseModels",)).read(token)


def test_page_sizes_have_a_default_and_a_cap() -> None:
    assert [page_size(asked) for asked in (0, 1, 1000, 5000)] == [50, 1, 1000, 1000]
    with pytest.raises(InvalidFieldError):
        page_size(-1)
