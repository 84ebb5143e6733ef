"""An AdapterStore, a hub on this machine for it, and adapters of a few bytes."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loramux.localhub import LocalHub, running
from services.common.adapters.version import CONFIG, WEIGHTS, AdapterVersion, digest_of
from services.common.hub import HubClient
from services.worker.adapters.adapter_store import AdapterStore
from services.worker.adapters.store_folder import DELETED

SIZE = 1000


class Setting:
    """A hub, a store, and the tokens that the registry would hand out."""

    def __init__(self, hub: LocalHub, endpoint: str, folder: Path) -> None:
        self.hub = hub
        self.folder = folder
        self.client = HubClient(endpoint)
        self.tokens: dict[str, str] = {}
        self.asked: list[str] = []

    def store(self, quota: int = 10 * SIZE) -> AdapterStore:
        """An AdapterStore; the earlier one must be closed."""

        async def hub_token(uid: str, _digest: str) -> str:
            self.asked.append(uid)
            return self.tokens[uid]

        return AdapterStore(self.folder, self.client, hub_token, quota_bytes=quota)

    def publish(self, name: str, *, private: bool = False, uid: str = "") -> AdapterVersion:
        """Put an adapter of SIZE bytes on the hub."""
        config = b'{"r": 8}'
        weights = name.encode().ljust(SIZE - len(config), b".")
        commit = self.hub.add_repo(
            f"anna/{name}", {CONFIG: config, WEIGHTS: weights, "README.md": b"hi"}, private=private
        )
        sums = hashlib.sha256(config).hexdigest(), hashlib.sha256(weights).hexdigest()
        return AdapterVersion(digest_of(*sums), f"anna/{name}", commit, *sums, SIZE, uid)

    def downloads(self) -> list[str]:
        """Files that were fetched, in order."""
        return [one.path for one in self.hub.requests if one.method == "GET"]

    def on_disk(self) -> set[str]:
        """What there is in the store's folder, less what is being deleted."""
        found = {path.name for path in self.folder.iterdir()} - {".lock"}
        return {name for name in found if not name.startswith(DELETED)}


@contextmanager
def running_setting(folder: Path) -> Iterator[Setting]:
    """A hub in `folder` and room for a store."""
    hub = LocalHub(folder / "hub")
    with running(hub) as endpoint:
        yield Setting(hub, endpoint, folder / "adapters")
    hub.close()


async def use(store: AdapterStore, version: AdapterVersion) -> None:
    """Hold an adapter, and let go of it."""
    async with store.hold(version):
        pass
