"""What an AdapterStore leaves behind, and what it makes of what another left."""

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loramux.localhub import Hold, HubRequest
from services.common import errors
from services.common.adapters.version import CONFIG, WEIGHTS
from services.worker.adapters.store_folder import FolderInUseError
from tests.support.worker_store import SIZE, Setting, running_setting, use


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    with running_setting(tmp_path) as setting:
        yield setting


async def test_what_is_whole_is_used_again_after_a_restart(setting: Setting) -> None:
    version, store = setting.publish("pirate"), setting.store()
    await use(store, version)
    await store.close()
    setting.hub.requests.clear()
    store = setting.store()
    assert store.size_bytes == SIZE
    await use(store, version)
    assert list(setting.hub.requests) == []
    await store.close()


async def test_what_was_changed_on_disk_is_fetched_again_after_a_restart(setting: Setting) -> None:
    version, store = setting.publish("pirate"), setting.store()
    await use(store, version)
    await store.close()
    (setting.folder / version.digest / WEIGHTS).write_bytes(b"x" * (SIZE - 8))
    store = setting.store()
    async with store.hold(version) as files:
        assert hashlib.sha256((files.folder / WEIGHTS).read_bytes()).hexdigest() == version.weights_sha256
    await store.close()


async def test_a_crashs_leftovers_are_removed_and_foreign_files_are_not(setting: Setting) -> None:
    half = setting.folder / ("a" * 64)
    half.mkdir(parents=True)
    (half / CONFIG).write_text("{}")
    for name in (".fetching-1", ".deleted-2"):
        (setting.folder / name).mkdir()
        (setting.folder / name / "file").touch()
    (setting.folder / "notes.txt").touch()
    store = setting.store()
    assert setting.on_disk() == {"notes.txt"}
    await store.close()


async def test_two_workers_cannot_have_one_folder(setting: Setting) -> None:
    store = setting.store()
    with pytest.raises(FolderInUseError):
        setting.store()
    await store.close()
    await setting.store().close()


async def test_closing_does_not_wait_for_a_hub_that_hangs_and_leaves_nothing(setting: Setting) -> None:
    version, store = setting.publish("pirate"), setting.store()
    release, arrived = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(_request: HubRequest) -> Hold | None:
        loop.call_soon_threadsafe(arrived.set)
        return Hold(release)

    setting.hub.fault = hold
    request = asyncio.create_task(use(store, version))
    await arrived.wait()
    try:
        await store.close()
        (outcome,) = await asyncio.gather(request, return_exceptions=True)
        assert isinstance(outcome, errors.UnavailableError)
        assert outcome.reason == "DRAINING"
        assert setting.on_disk() == set()
    finally:
        release.set()
