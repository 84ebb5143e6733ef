"""Where the clients connect to, and with whose key."""

import stat
from pathlib import Path

import pytest

from loramux import connection, profile
from loramux.profile import Profile

RUNNING = Profile(
    target="127.0.0.1:7000", api_key="lmx_file", operator_key="lmx_op", hub_endpoint="http://127.0.0.1:1"
)


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAMUX_HOME", str(tmp_path / "home"))
    for name in ("LORAMUX_TARGET", "LORAMUX_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("target", "address", "tls"),
    [
        ("localhost:7000", "localhost:7000", False),
        ("http://gateway", "gateway:80", False),
        ("http://gateway:7000/", "gateway:7000", False),
        ("https://gateway", "gateway:443", True),
        ("https://[::1]:7443", "[::1]:7443", True),
        ("unix:///run/loramux.sock", "unix:///run/loramux.sock", False),
    ],
)
def test_a_target_says_address_and_tls(target: str, address: str, tls: bool) -> None:
    assert connection.parse_target(target) == (address, tls)


@pytest.mark.parametrize(
    "target", ["https://", "http://gateway/v1", "https://user@gateway", "http://gateway?x=1"]
)
def test_a_target_that_is_more_than_an_address_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="target is"):
        connection.parse_target(target)


def test_tls_can_be_asked_for_and_switched_off() -> None:
    assert connection.resolve("gateway:7000", "lmx_a", tls=True).tls
    assert not connection.resolve("https://gateway:7000", "lmx_a", tls=False).tls


def test_arguments_come_before_variables_before_the_running_services(monkeypatch: pytest.MonkeyPatch) -> None:
    profile.save(RUNNING)
    found = connection.resolve(None, None, tls=None)
    assert (found.address, found.api_key) == ("127.0.0.1:7000", "lmx_file")
    monkeypatch.setenv("LORAMUX_TARGET", "gateway:1")
    monkeypatch.setenv("LORAMUX_API_KEY", "lmx_variable")
    found = connection.resolve(None, None, tls=None)
    assert (found.address, found.api_key) == ("gateway:1", "lmx_variable")
    found = connection.resolve("gateway:2", "lmx_argument", tls=None)
    assert (found.address, found.api_key) == ("gateway:2", "lmx_argument")


def test_the_running_services_key_goes_nowhere_else() -> None:
    profile.save(RUNNING)
    with pytest.raises(connection.MissingSettingError, match="no API key for gateway:1"):
        connection.resolve("gateway:1", None, tls=None)


def test_no_target_says_what_to_do() -> None:
    with pytest.raises(connection.MissingSettingError, match="loramux up"):
        connection.resolve(None, "lmx_a", tls=None)


@pytest.mark.parametrize("key", ["lmx_é", "lmx_a\nx: y"])
def test_a_key_that_cannot_travel_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as caught:
        connection.resolve("gateway:1", key, tls=None)
    assert key not in str(caught.value)


def test_a_connection_does_not_show_its_key() -> None:
    assert "lmx_secret" not in repr(connection.resolve("gateway:1", "lmx_secret", tls=None))


def test_the_profile_is_for_its_owner_alone_and_forgotten_only_by_its_services() -> None:
    place = profile.save(RUNNING)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert profile.load() == RUNNING
    profile.forget(Profile("127.0.0.1:1", "lmx_b", "lmx_c", ""))
    assert profile.load() == RUNNING
    profile.forget(RUNNING)
    assert profile.load() is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"target": "a"}'])
def test_a_profile_that_is_not_ours_counts_as_none(content: str) -> None:
    place = profile.save(RUNNING)
    place.write_text(content)
    assert profile.load() is None
