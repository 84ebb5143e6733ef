"""Adapters on disk, fetched by the real Hub client from a hub on this machine."""

import asyncio
import errno
import hashlib
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loramux.localhub import Hold, HubRequest, Refuse, Tamper
from services.common import errors
from services.common.adapters.version import CONFIG, WEIGHTS
from services.common.hub import HubClient
from tests.support.worker_store import SIZE, Setting, running_setting, use


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    with running_setting(tmp_path) as setting:
        yield setting


async def test_a_held_adapter_is_two_files_on_disk_and_nothing_else(setting: Setting) -> None:
    version, store = setting.publish("pirate"), setting.store()
    async with store.hold(version) as files:
        assert files.digest == version.digest
        assert {path.name for path in files.folder.iterdir()} == {CONFIG, WEIGHTS}
        assert hashlib.sha256((files.folder / WEIGHTS).read_bytes()).hexdigest() == version.weights_sha256
    assert setting.on_disk() == {version.digest}
    assert store.size_bytes == SIZE
    await store.close()


async def test_requests_at_the_same_time_share_one_download(setting: Setting) -> None:
    version, store = setting.publish("pirate"), setting.store()
    await asyncio.gather(*(use(store, version) for _ in range(20)))
    await use(store, version)
    assert sorted(setting.downloads()) == [CONFIG, WEIGHTS]
    await store.close()


async def test_a_token_is_asked_for_only_when_a_download_needs_it(setting: Setting) -> None:
    setting.hub.add_token("hf_anna", "anna")
    setting.tokens["uid-1"] = "hf_anna"
    public, private = setting.publish("pirate"), setting.publish("secret", private=True, uid="uid-1")
    store = setting.store()
    await use(store, public)
    assert setting.asked == []
    await use(store, private)
    await use(store, private)
    assert setting.asked == ["uid-1"]
    await store.close()


async def test_one_deployments_bad_token_fails_no_other_with_the_same_adapter(setting: Setting) -> None:
    setting.hub.add_token("hf_anna", "anna")
    setting.tokens = {"good": "hf_anna", "bad": "hf_revoked"}
    version = setting.publish("secret", private=True)
    store = setting.store()
    good, bad = await asyncio.gather(
        use(store, replace(version, deployment_uid="good")),
        use(store, replace(version, deployment_uid="bad")),
        return_exceptions=True,
    )
    assert good is None
    assert isinstance(bad, errors.PreconditionError)
    assert bad.reason == "HUB_TOKEN_REFUSED"
    await store.close()


async def test_tampered_bytes_of_the_same_size_are_refused_and_leave_nothing(setting: Setting) -> None:
    version, store = setting.publish("pirate"), setting.store()
    setting.hub.fault = lambda request: Tamper() if request.path == WEIGHTS else None
    with pytest.raises(errors.PreconditionError) as caught:
        await use(store, version)
    assert caught.value.reason == "ADAPTER_TAMPERED"
    assert caught.value.metadata["file"] == WEIGHTS
    assert setting.on_disk() == set()
    await store.close()


async def test_a_tampered_config_is_refused(setting: Setting) -> None:
    version, store = setting.publish("pirate"), setting.store()
    setting.hub.fault = lambda request: Tamper() if request.path == CONFIG else None
    with pytest.raises(errors.PreconditionError, match=CONFIG):
        await use(store, version)
    assert setting.on_disk() == set()
    await store.close()


async def test_a_file_larger_than_admitted_is_refused(setting: Setting) -> None:
    version, store = setting.publish("pirate"), setting.store()
    with pytest.raises(errors.PreconditionError) as caught:
        await use(store, replace(version, size_bytes=SIZE // 2))
    assert caught.value.reason == "ADAPTER_TAMPERED"
    assert setting.on_disk() == set()
    await store.close()


async def test_a_failed_download_is_tried_again_by_the_next_request(setting: Setting) -> None:
    version, store = setting.publish("pirate"), setting.store()
    setting.hub.fault = lambda _request: Refuse(503)
    with pytest.raises(errors.UnavailableError):
        await use(store, version)
    assert setting.on_disk() == set()
    setting.hub.fault = None
    await use(store, version)
    await store.close()


async def test_a_cancelled_request_leaves_nothing_behind(setting: Setting) -> None:
    version, store = setting.publish("pirate"), setting.store()
    release, arrived = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold_weights(request: HubRequest) -> Hold | None:
        if request.method != "GET" or request.path != WEIGHTS:
            return None
        loop.call_soon_threadsafe(arrived.set)
        return Hold(release)

    setting.hub.fault = hold_weights
    request = asyncio.create_task(use(store, version))
    await arrived.wait()
    request.cancel()
    # The request itself ends at once, whatever the Hub does.
    assert isinstance((await asyncio.gather(request, return_exceptions=True))[0], asyncio.CancelledError)
    release.set()
    await store.close()
    assert setting.on_disk() == set()


async def test_one_cancelled_request_does_not_stop_the_others(setting: Setting) -> None:
    version, store = setting.publish("pirate"), setting.store()
    release, arrived = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(request: HubRequest) -> Hold | None:
        loop.call_soon_threadsafe(arrived.set)
        return Hold(release)

    setting.hub.fault = hold
    first, second = (asyncio.create_task(use(store, version)) for _ in range(2))
    await arrived.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    release.set()
    await second
    assert setting.downloads() == [CONFIG, WEIGHTS]
    await store.close()


async def test_a_request_after_a_given_up_download_starts_its_own(setting: Setting) -> None:
    version, store = setting.publish("pirate"), setting.store()
    release, arrived = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(_request: HubRequest) -> Hold | None:
        loop.call_soon_threadsafe(arrived.set)
        return Hold(release)

    setting.hub.fault = hold
    given_up = asyncio.create_task(use(store, version))
    await arrived.wait()
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    setting.hub.fault = None
    await use(store, version)
    release.set()
    await store.close()
    assert setting.on_disk() == {version.digest}


async def test_the_least_recently_used_is_deleted_for_a_new_one(setting: Setting) -> None:
    one, two, three = (setting.publish(name) for name in ("one", "two", "three"))
    store = setting.store(quota=2 * SIZE)
    for version in (one, two, one, three):
        await use(store, version)
    assert setting.on_disk() == {one.digest, three.digest}
    await store.close()


async def test_an_adapter_in_use_is_never_deleted(setting: Setting) -> None:
    one, two, three = (setting.publish(name) for name in ("one", "two", "three"))
    store = setting.store(quota=2 * SIZE)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(store.hold(one))
        await stack.enter_async_context(store.hold(two))
        with pytest.raises(errors.UnavailableError) as caught:
            await use(store, three)
        assert caught.value.reason == "ADAPTER_CACHE_FULL"
        assert setting.on_disk() == {one.digest, two.digest}
    await use(store, three)
    assert len(setting.on_disk()) == 2
    await store.close()


async def test_downloads_on_their_way_count_against_the_quota(setting: Setting) -> None:
    versions = [setting.publish(name) for name in ("one", "two", "three")]
    store = setting.store(quota=2 * SIZE)
    outcomes = await asyncio.gather(*(use(store, version) for version in versions), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(errors.UnavailableError) == 1
    assert store.size_bytes == 2 * SIZE
    await store.close()


async def test_an_adapter_above_the_whole_quota_is_refused_for_good(setting: Setting) -> None:
    version, store = setting.publish("pirate"), setting.store(quota=SIZE - 1)
    with pytest.raises(errors.AboveLimitError):
        await use(store, version)
    await store.close()


async def test_a_discarded_adapter_goes_when_the_last_holder_lets_go(setting: Setting) -> None:
    version, store = setting.publish("pirate"), setting.store()
    async with store.hold(version):
        store.discard(version.digest)
        assert setting.on_disk() == {version.digest}
    assert setting.on_disk() == set()
    assert store.size_bytes == 0
    await store.close()


async def test_a_digest_that_is_not_of_its_sums_is_a_bad_field(setting: Setting) -> None:
    version, store = setting.publish("pirate"), setting.store()
    for bad in (
        replace(version, digest="../../etc"),
        replace(version, digest="f" * 64),
        replace(version, weights_sha256="nonsense"),
        replace(version, commit="main"),
        replace(version, size_bytes=0),
    ):
        with pytest.raises(errors.InvalidFieldError):
            await use(store, bad)
    assert list(setting.hub.requests) == []
    await store.close()


async def test_a_given_up_download_lets_go_of_its_room_at_once(setting: Setting) -> None:
    """However long its thread hangs: four of them kept a whole quota (registry review 11)."""
    slow, warm, wanted = (setting.publish(name) for name in ("slow", "warm", "wanted"))
    store = setting.store(2 * SIZE)
    await use(store, warm)
    release, arrived = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold_weights(request: HubRequest) -> Hold | None:
        if request.method != "GET" or request.path != WEIGHTS:
            return None
        loop.call_soon_threadsafe(arrived.set)
        return Hold(release)

    setting.hub.fault = hold_weights
    request = asyncio.create_task(use(store, slow))
    await arrived.wait()
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    setting.hub.fault = None
    async with store.hold(warm):  # so that it cannot give way
        await use(store, wanted)
    assert store.size_bytes == 2 * SIZE
    release.set()
    await store.close()
    assert setting.on_disk() == {warm.digest, wanted.digest}


async def test_nothing_is_deleted_for_an_adapter_that_cannot_be_had(setting: Setting) -> None:
    warm, wanted = setting.publish("warm"), setting.publish("wanted")
    store = setting.store(SIZE)
    await use(store, warm)
    setting.hub.fault = lambda _request: Refuse(503)
    with pytest.raises(errors.UnavailableError):
        await use(store, wanted)
    assert setting.on_disk() == {warm.digest}
    await store.close()


async def test_a_full_disk_makes_room_and_is_no_defect(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm, wanted = setting.publish("warm"), setting.publish("wanted")
    store = setting.store()
    await use(store, warm)
    full = OSError(errno.ENOSPC, "No space left on device")

    def download(*arguments: Any, **options: Any) -> Path:
        if warm.digest in setting.on_disk():
            raise full
        return HubClient.download(setting.client, *arguments, **options)

    monkeypatch.setattr(setting.client, "download", download)
    async with store.hold(warm):
        with pytest.raises(errors.UnavailableError) as caught:
            await use(store, wanted)
        assert caught.value.reason == "ADAPTER_CACHE_FULL"
    await use(store, wanted)
    assert setting.on_disk() == {wanted.digest}
    await store.close()
