"""The local hub, through the real huggingface_hub client. Every call names its token, so none of the host's goes out."""

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils._http import get_session

from loramux.localhub import LocalHub, running

CONFIG = b'{"peft_type": "LORA", "r": 4}'
HEADER = b'{"lora.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"__metadata__":{"format":"pt"}}'
WEIGHTS = struct.pack("<Q", len(HEADER)) + HEADER + bytes(range(16))
FILES = {
    "adapter_config.json": CONFIG,
    "adapter_model.safetensors": WEIGHTS,
    "nested/notes.txt": b"deep",
}
TOKEN = "hf_alice"
STRANGER = "hf_mallory"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    hub = LocalHub(tmp_path / "hub")
    hub.add_token(TOKEN, "alice")
    hub.add_token(STRANGER, "mallory")
    hub.add_repo("acme/open", FILES)
    yield hub
    hub.close()


@pytest.fixture
def endpoint(hub: LocalHub) -> Iterator[str]:
    with running(hub) as url:
        yield url


@pytest.fixture
def api(endpoint: str) -> HfApi:
    return HfApi(endpoint=endpoint, token=False)


def test_model_info_carries_commit_sizes_and_digests(hub: LocalHub, api: HfApi) -> None:
    info = api.model_info("acme/open", files_metadata=True)
    assert info.sha == hub.commit("acme/open")
    assert info.private is False
    assert info.gated is False
    weights = next(one for one in info.siblings or [] if one.rfilename == "adapter_model.safetensors")
    assert weights.size == len(WEIGHTS)
    assert weights.lfs is not None
    assert weights.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()


def test_a_tag_keeps_naming_the_commit_it_was_given(hub: LocalHub, api: HfApi) -> None:
    first = hub.add_tag("acme/open", "release/1")
    (hub.folder("acme/open") / "adapter_config.json").write_bytes(b"{}")
    assert api.model_info("acme/open", revision="release/1").sha == first
    assert api.model_info("acme/open", revision="main").sha != first


def test_the_tree_lists_files_and_folders_with_lfs_digests(api: HfApi) -> None:
    entries = {entry.path: entry for entry in api.list_repo_tree("acme/open")}
    assert set(entries) == {"adapter_config.json", "adapter_model.safetensors", "nested"}
    assert isinstance(entries["nested"], RepoFolder)
    weights, config = entries["adapter_model.safetensors"], entries["adapter_config.json"]
    assert isinstance(weights, RepoFile)
    assert isinstance(config, RepoFile)
    assert weights.lfs is not None
    assert weights.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert config.lfs is None
    assert (
        config.blob_id == hashlib.sha1(b"blob %d\0" % len(CONFIG) + CONFIG, usedforsecurity=False).hexdigest()
    )


def test_the_tree_goes_deep_only_when_asked(api: HfApi) -> None:
    deep = [entry.path for entry in api.list_repo_tree("acme/open", recursive=True)]
    assert "nested/notes.txt" in deep
    inside = [entry.path for entry in api.list_repo_tree("acme/open", "nested")]
    assert inside == ["nested/notes.txt"]
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree("acme/open", "missing"))


def test_paths_info_skips_what_is_not_there(api: HfApi) -> None:
    found = api.get_paths_info("acme/open", ["adapter_config.json", "nested", "missing"])
    assert [entry.path for entry in found] == ["adapter_config.json", "nested"]


def test_a_download_is_pinned_to_its_commit_and_then_needs_no_call(
    hub: LocalHub, endpoint: str, tmp_path: Path
) -> None:
    commit = hub.commit("acme/open")
    for expected_calls in (2, 0):
        hub.requests.clear()
        path = hf_hub_download(
            "acme/open",
            "adapter_model.safetensors",
            revision=commit,
            endpoint=endpoint,
            cache_dir=tmp_path / "cache",
            token=False,
        )
        assert Path(path).read_bytes() == WEIGHTS
        assert commit in path
        assert len(hub.requests) == expected_calls


def test_a_snapshot_brings_every_file(endpoint: str, tmp_path: Path) -> None:
    folder = Path(
        snapshot_download("acme/open", endpoint=endpoint, cache_dir=tmp_path / "cache", token=False)
    )
    assert {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    } == FILES


def test_a_safetensors_header_is_read_by_range(hub: LocalHub, api: HfApi) -> None:
    metadata = api.parse_safetensors_file_metadata("acme/open", "adapter_model.safetensors")
    assert metadata.tensors["lora.weight"].shape == [2, 2]
    assert [request.range for request in hub.requests] == ["bytes=0-100000"]


def test_ranges_answer_206_or_416(endpoint: str) -> None:
    url = f"{endpoint}/acme/open/resolve/main/adapter_model.safetensors"
    part = get_session().get(url, headers={"Range": "bytes=8-11"})
    assert part.status_code == 206
    assert part.content == WEIGHTS[8:12]
    assert part.headers["Content-Range"] == f"bytes 8-11/{len(WEIGHTS)}"
    beyond = get_session().get(url, headers={"Range": f"bytes={len(WEIGHTS)}-"})
    assert beyond.status_code == 416
    assert beyond.headers["Content-Range"] == f"bytes */{len(WEIGHTS)}"


def test_editing_a_file_makes_a_commit_and_leaves_the_old_one_served(
    hub: LocalHub, endpoint: str, tmp_path: Path
) -> None:
    old = hub.commit("acme/open")
    (hub.folder("acme/open") / "adapter_config.json").write_bytes(CONFIG[::-1])
    new = hub.commit("acme/open")
    assert new != old
    assert len(old) == 40
    contents = [
        Path(
            hf_hub_download(
                "acme/open",
                "adapter_config.json",
                revision=revision,
                endpoint=endpoint,
                cache_dir=tmp_path / "cache",
                token=False,
            )
        ).read_bytes()
        for revision in (old, new)
    ]
    assert contents == [CONFIG, CONFIG[::-1]]


def test_the_same_contents_are_the_same_commit(hub: LocalHub) -> None:
    assert hub.add_repo("acme/copy", hub.folder("acme/open")) == hub.commit("acme/open")


def test_a_missing_repo_is_not_found_with_and_without_token(api: HfApi) -> None:
    for token, status in ((False, 401), (TOKEN, 404)):
        with pytest.raises(RepositoryNotFoundError) as caught:
            api.model_info("acme/missing", token=token)
        assert caught.value.response.status_code == status


def test_a_private_repo_looks_missing_to_strangers(hub: LocalHub, api: HfApi) -> None:
    hub.add_repo("acme/secret", FILES, private=True, allowed_users=["alice"])
    for token in (False, STRANGER):
        with pytest.raises(RepositoryNotFoundError) as missing:
            api.model_info("acme/missing", token=token)
        with pytest.raises(RepositoryNotFoundError) as secret:
            api.model_info("acme/secret", token=token)
        assert not isinstance(secret.value, GatedRepoError)
        assert secret.value.response.content == missing.value.response.content
    assert api.model_info("acme/secret", token=TOKEN).private is True


def test_a_private_repo_without_a_list_is_open_to_every_token(hub: LocalHub, api: HfApi) -> None:
    hub.add_repo("acme/team", FILES, private=True)
    with pytest.raises(RepositoryNotFoundError):
        api.auth_check("acme/team")
    api.auth_check("acme/team", token=STRANGER)


def test_a_gated_repo_shows_its_listing_and_withholds_its_files(
    hub: LocalHub, api: HfApi, endpoint: str, tmp_path: Path
) -> None:
    hub.add_repo("acme/gated", FILES, gated=True, allowed_users=["alice"])
    assert api.model_info("acme/gated").gated == "manual"
    for token, status in ((False, 401), (STRANGER, 403)):
        with pytest.raises(GatedRepoError) as caught:
            api.parse_safetensors_file_metadata("acme/gated", "adapter_model.safetensors", token=token)
        assert caught.value.response.status_code == status
        with pytest.raises(GatedRepoError):
            api.auth_check("acme/gated", token=token)
    api.auth_check("acme/gated", token=TOKEN)
    path = hf_hub_download(
        "acme/gated", "adapter_config.json", endpoint=endpoint, cache_dir=tmp_path / "cache", token=TOKEN
    )
    assert Path(path).read_bytes() == CONFIG


def test_unknown_revisions_and_files_have_their_own_errors(
    hub: LocalHub, api: HfApi, endpoint: str, tmp_path: Path
) -> None:
    for revision in ("no-such-branch", "0" * 40):
        with pytest.raises(RevisionNotFoundError):
            api.model_info("acme/open", revision=revision)
    with pytest.raises(RemoteEntryNotFoundError) as caught:
        hf_hub_download(
            "acme/open", "missing.json", endpoint=endpoint, cache_dir=tmp_path / "cache", token=False
        )
    assert caught.value.response.headers["X-Repo-Commit"] == hub.commit("acme/open")


def test_whoami_knows_users_and_refuses_unknown_tokens(api: HfApi) -> None:
    assert api.whoami(token=TOKEN)["name"] == "alice"
    for call in (
        lambda: api.whoami(token="hf_wrong"),
        lambda: api.model_info("acme/open", token="hf_wrong"),
    ):
        with pytest.raises(HfHubHTTPError) as caught:
            call()
        assert caught.value.response.status_code == 401
        assert not isinstance(caught.value, RepositoryNotFoundError)


def test_nothing_listens_after_the_context_ends(hub: LocalHub) -> None:
    with running(hub) as endpoint:
        HfApi(endpoint=endpoint, token=False).model_info("acme/open")
    with pytest.raises(httpx2.ConnectError):
        HfApi(endpoint=endpoint, token=False).model_info("acme/open")


async def test_it_runs_inside_an_event_loop_too(hub: LocalHub) -> None:
    async with running(hub) as endpoint:
        assert endpoint.startswith("http://127.0.0.1:")


def test_paths_cannot_leave_the_repository(hub: LocalHub, endpoint: str) -> None:
    for path in (
        "/acme/open/resolve/main/..%2F..%2Ftokens.toml",
        "/acme/open/resolve/main/../../../tokens.toml",
        "/..%2F..%2Fetc/x/resolve/main/passwd",
        "/api/models/acme/..",
    ):
        answer = get_session().get(f"{endpoint}{path}")
        assert answer.status_code in (401, 404)
        assert TOKEN not in answer.text


@pytest.mark.parametrize(
    ("content", "words"),
    [("privat = true", "privat"), ("gated = 1", "gated is 1"), ("private = ", "hub.toml")],
)
def test_a_broken_sidecar_closes_the_repo_and_says_where(
    hub: LocalHub, endpoint: str, content: str, words: str
) -> None:
    (hub.root / "acme" / "open.hub.toml").write_text(content)
    answer = get_session().get(f"{endpoint}/api/models/acme/open")
    assert answer.status_code == 500
    assert words in answer.json()["error"]
