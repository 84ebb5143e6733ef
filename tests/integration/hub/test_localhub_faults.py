"""What the local hub can be made to do wrong, as the real huggingface_hub client meets it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from loramux.localhub import CutConnection, Fault, Hold, HubRequest, LocalHub, Refuse, Tamper, running

WEIGHTS = bytes(range(64))
TOKEN = "hf_alice"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    hub = LocalHub(tmp_path / "hub")
    hub.add_token(TOKEN, "alice")
    hub.add_repo("acme/open", {"adapter_config.json": b"{}", "adapter_model.safetensors": WEIGHTS})
    yield hub
    hub.close()


@pytest.fixture
def endpoint(hub: LocalHub) -> Iterator[str]:
    with running(hub) as url:
        yield url


@pytest.fixture
def api(endpoint: str) -> HfApi:
    return HfApi(endpoint=endpoint, token=False)


def test_tampered_bytes_have_the_right_size_and_pass_the_client(
    hub: LocalHub, endpoint: str, tmp_path: Path
) -> None:
    hub.fault = lambda request: Tamper() if request.path.endswith(".safetensors") else None
    path = hf_hub_download(
        "acme/open",
        "adapter_model.safetensors",
        endpoint=endpoint,
        cache_dir=tmp_path / "cache",
        token=False,
    )
    got = Path(path).read_bytes()
    assert got[:-1] == WEIGHTS[:-1]
    assert got[-1] != WEIGHTS[-1]
    assert len(got) == len(WEIGHTS)


def test_a_cut_connection_is_seen_and_survived(hub: LocalHub, endpoint: str, tmp_path: Path) -> None:
    cuts = 0

    def once(request: HubRequest) -> Fault | None:
        nonlocal cuts
        if request.method == "GET" and cuts == 0:
            cuts += 1
            return CutConnection(after_bytes=10)
        return None

    hub.fault = once
    path = hf_hub_download(
        "acme/open",
        "adapter_model.safetensors",
        endpoint=endpoint,
        cache_dir=tmp_path / "cache",
        token=False,
    )
    assert cuts == 1
    assert Path(path).read_bytes() == WEIGHTS


def test_a_refusing_hub_answers_503_with_retry_after(hub: LocalHub, api: HfApi) -> None:
    hub.fault = lambda request: Refuse(503, retry_after=7) if request.kind == "info" else None
    with pytest.raises(HfHubHTTPError) as caught:
        api.model_info("acme/open")
    assert caught.value.response.status_code == 503
    assert caught.value.response.headers["Retry-After"] == "7"


def test_a_held_request_waits_for_its_release(hub: LocalHub, api: HfApi) -> None:
    release, arrived = threading.Event(), threading.Event()

    def hold(_request: HubRequest) -> Fault:
        arrived.set()
        return Hold(release)

    hub.fault = hold
    with ThreadPoolExecutor(1) as pool:
        info = pool.submit(api.model_info, "acme/open")
        assert arrived.wait(10)
        assert not info.done()
        release.set()
        assert info.result(10).sha == hub.commit("acme/open")


def test_requests_are_kept_with_the_user_and_without_the_token(hub: LocalHub, api: HfApi) -> None:
    api.model_info("acme/open", token=TOKEN)
    assert [(one.kind, one.repo_id, one.user) for one in hub.requests] == [("info", "acme/open", "alice")]
    assert TOKEN not in repr(hub.requests)
