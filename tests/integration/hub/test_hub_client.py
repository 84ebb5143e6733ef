"""The shared Hub client, with the real huggingface_hub against a hub on this machine."""

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import errors as hf_errors

from loramux.localhub import CutConnection, HubRequest, LocalHub, Refuse, Tamper, running
from services.common import errors
from services.common.hub import DownloadCancelledError, HubClient, translate

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights" * 100, "README.md": b"hello"}
REPO = "anna/pirate"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    hub = LocalHub(tmp_path / "hub")
    yield hub
    hub.close()


@pytest.fixture
def client(hub: LocalHub) -> Iterator[HubClient]:
    with running(hub) as endpoint:
        yield HubClient(endpoint)


def fetch(
    client: HubClient,
    commit: str,
    folder: Path,
    *,
    token: str = "",
    name: str = "README.md",
    limit: int = 1000,
) -> bytes:
    folder.mkdir(exist_ok=True)
    return client.download(REPO, commit, name, folder, token=token, max_bytes=limit).read_bytes()


def refusal(
    client: HubClient,
    commit: str,
    folder: Path,
    *,
    token: str = "",
    name: str = "README.md",
    limit: int = 1000,
) -> errors.ServiceError:
    with pytest.raises(errors.ServiceError) as caught:
        fetch(client, commit, folder, token=token, name=name, limit=limit)
    assert list(folder.iterdir()) == []
    return caught.value


def test_a_download_leaves_the_file_and_nothing_else(
    hub: LocalHub, client: HubClient, tmp_path: Path
) -> None:
    commit = hub.add_repo(REPO, FILES)
    assert fetch(client, commit, tmp_path / "out") == b"hello"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["README.md"]


def test_model_info_names_the_commit_and_the_sums(hub: LocalHub, client: HubClient) -> None:
    commit = hub.add_repo(REPO, FILES)
    info = client.model_info(REPO, "main", token="")
    sums = {one.rfilename: one.lfs.sha256 if one.lfs else None for one in info.siblings or []}
    assert info.sha == commit
    assert sums["adapter_model.safetensors"] == hashlib.sha256(FILES["adapter_model.safetensors"]).hexdigest()


def test_a_snapshot_holds_the_files_that_match(hub: LocalHub, client: HubClient, tmp_path: Path) -> None:
    commit = hub.add_repo(REPO, FILES)
    folder = client.snapshot(REPO, commit, tmp_path / "cache", patterns=["*.safetensors"], token="")
    assert [path.name for path in folder.iterdir()] == ["adapter_model.safetensors"]


def test_a_snapshot_that_is_there_outlives_the_hub(hub: LocalHub, tmp_path: Path) -> None:
    commit = hub.add_repo(REPO, FILES)
    with running(hub) as endpoint:
        HubClient(endpoint).snapshot(REPO, commit, tmp_path / "cache", patterns=["*.json"], token="")
    folder = HubClient(endpoint).snapshot(REPO, commit, tmp_path / "cache", patterns=["*.json"], token="")
    assert [path.name for path in folder.iterdir()] == ["adapter_config.json"]


def test_the_hosts_own_token_is_never_sent(
    hub: LocalHub, client: HubClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_token("hf_host_token", "host")
    commit = hub.add_repo(REPO, FILES, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_host_token")
    assert refusal(client, commit, tmp_path / "out").reason == "HUB_REPO_PRIVATE"
    assert {request.user for request in hub.requests} == {None}


def test_a_private_repo_opens_with_its_token(hub: LocalHub, client: HubClient, tmp_path: Path) -> None:
    hub.add_token("hf_anna", "anna")
    commit = hub.add_repo(REPO, FILES, private=True, allowed_users=["anna"])
    assert fetch(client, commit, tmp_path / "out", token="hf_anna") == b"hello"


def test_a_private_repo_without_a_token_says_what_to_do(
    hub: LocalHub, client: HubClient, tmp_path: Path
) -> None:
    commit = hub.add_repo(REPO, FILES, private=True)
    error = refusal(client, commit, tmp_path / "out")
    assert isinstance(error, errors.PreconditionError)
    assert error.reason == "HUB_REPO_PRIVATE"
    assert "pass a Hub token" in error.message


def test_a_repo_that_a_valid_token_does_not_open_is_not_found(
    hub: LocalHub, client: HubClient, tmp_path: Path
) -> None:
    hub.add_token("hf_ben", "ben")
    commit = hub.add_repo(REPO, FILES, private=True, allowed_users=["anna"])
    assert refusal(client, commit, tmp_path / "out", token="hf_ben").reason == "HUB_REPO_NOT_FOUND"


def test_a_token_that_the_hub_does_not_know_is_refused(
    hub: LocalHub, client: HubClient, tmp_path: Path
) -> None:
    commit = hub.add_repo(REPO, FILES)
    error = refusal(client, commit, tmp_path / "out", token="hf_wrong")
    assert error.reason == "HUB_TOKEN_REFUSED"
    assert "hf_wrong" not in error.message


def test_a_gated_repo_is_told_apart_with_and_without_a_token(
    hub: LocalHub, client: HubClient, tmp_path: Path
) -> None:
    hub.add_token("hf_ben", "ben")
    commit = hub.add_repo(REPO, FILES, gated=True, allowed_users=["anna"])
    without = refusal(client, commit, tmp_path / "out")
    given = refusal(client, commit, tmp_path / "out", token="hf_ben")
    assert (without.reason, given.reason) == ("HUB_REPO_GATED", "HUB_REPO_GATED")
    assert "pass a Hub token" in without.message
    assert "pass a Hub token" not in given.message


def test_a_repo_that_is_gone_is_not_found(hub: LocalHub, client: HubClient, tmp_path: Path) -> None:
    hub.add_token("hf_anna", "anna")
    assert refusal(client, "0" * 40, tmp_path / "out", token="hf_anna").reason == "HUB_REPO_NOT_FOUND"


def test_a_commit_that_is_gone_is_not_found(hub: LocalHub, client: HubClient, tmp_path: Path) -> None:
    hub.add_repo(REPO, FILES)
    assert refusal(client, "0" * 40, tmp_path / "out").reason == "HUB_REVISION_NOT_FOUND"


def test_a_file_that_is_missing_is_named(hub: LocalHub, client: HubClient, tmp_path: Path) -> None:
    commit = hub.add_repo(REPO, FILES)
    error = refusal(client, commit, tmp_path / "out", name="other.bin")
    assert (error.reason, error.metadata["file"]) == ("HUB_FILE_MISSING", "other.bin")


def test_a_file_above_the_bound_is_refused_before_it_is_fetched(
    hub: LocalHub, client: HubClient, tmp_path: Path
) -> None:
    commit = hub.add_repo(REPO, FILES)
    assert refusal(client, commit, tmp_path / "out", limit=4).reason == "HUB_FILE_TOO_LARGE"
    assert {request.method for request in hub.requests} == {"HEAD"}


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_in_trouble_is_worth_a_retry(
    hub: LocalHub, client: HubClient, tmp_path: Path, status: int
) -> None:
    commit = hub.add_repo(REPO, FILES)
    hub.fault = lambda _request: Refuse(status)
    error = refusal(client, commit, tmp_path / "out")
    assert isinstance(error, errors.UnavailableError)
    assert error.reason == "HUB_UNREACHABLE"


def test_a_hub_that_is_down_is_worth_a_retry(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    client = HubClient(f"http://127.0.0.1:{port}")
    assert refusal(client, "0" * 40, tmp_path / "out").reason == "HUB_UNREACHABLE"
    with pytest.raises(errors.UnavailableError):
        client.model_info(REPO, "main", token="")


def test_a_connection_that_is_cut_is_taken_up_again(hub: LocalHub, client: HubClient, tmp_path: Path) -> None:
    commit = hub.add_repo(REPO, FILES)
    cuts = iter([True])

    def cut_once(request: HubRequest) -> CutConnection | None:
        return CutConnection(2) if request.method == "GET" and next(cuts, False) else None

    hub.fault = cut_once
    assert fetch(client, commit, tmp_path / "out") == b"hello"


def test_a_cancelled_download_leaves_nothing(hub: LocalHub, client: HubClient, tmp_path: Path) -> None:
    commit = hub.add_repo(REPO, FILES)
    with pytest.raises(DownloadCancelledError):
        client.download(REPO, commit, "README.md", tmp_path, token="", max_bytes=1000, cancelled=lambda: True)
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_the_client_itself_does_not_notice_tampered_bytes(
    hub: LocalHub, client: HubClient, tmp_path: Path
) -> None:
    """Why the worker checks sums."""
    commit = hub.add_repo(REPO, FILES)
    hub.fault = lambda _request: Tamper()
    assert fetch(client, commit, tmp_path / "out") != b"hello"


def test_a_repo_id_that_cannot_be_one_is_a_bad_field(client: HubClient, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidFieldError) as caught:
        client.download("../etc/passwd", "0" * 40, "README.md", tmp_path, token="", max_bytes=1)
    assert caught.value.reason == "HUB_REPO_INVALID"


def test_errors_that_are_not_the_hubs_are_left_alone() -> None:
    for error in (
        ValueError("x"),
        OSError(28, "No space left on device"),
        hf_errors.SafetensorsParsingError(),
    ):
        assert translate(error, repo=REPO, revision="main", has_token=False) is None
