"""A worker with all that it needs, for a module's tests to share: registry, hub, miniature base."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from loramux.fleet.v1 import fleet_pb2
from loramux.localhub import LocalHub, running
from tests.support.models import write_random_adapter, write_tiny_base
from tests.support.worker import publish, registry_variables, running_service, worker_variables


@dataclass
class World:
    """What the tests of this module share."""

    hub: LocalHub
    base: Path
    folder: Path
    address: str
    tokenizer: Tokenizer
    metrics: str
    """host:port of the worker's metrics."""
    made: int = 0

    def adapter(self, *, rank: int = 4) -> Path:
        """A fresh random adapter on disk."""
        self.made += 1
        return write_random_adapter(
            self.folder / f"adapter-{self.made}", self.base, rank=rank, seed=self.made
        )

    def on_hub(self, *, private: bool = False) -> fleet_pb2.AdapterRef:
        """A fresh random adapter on the hub."""
        folder = self.adapter()
        return publish(self.hub, f"acme/{folder.name}", folder, private=private)

    def prompt(self, text: str = "The quick brown fox") -> list[int]:
        """Token ids of a text."""
        return self.tokenizer.encode(text).ids

    def files(self) -> set[str]:
        """What the worker keeps of adapters."""
        return {path.name for path in (self.folder / "cache" / "adapters").iterdir()} - {".lock"}


@contextmanager
def running_world(folder: Path) -> Iterator[World]:
    """Everything, with its state in `folder`."""
    base = write_tiny_base(folder / "base")
    hub = LocalHub(folder / "hub")
    with ExitStack() as stack:
        stack.callback(hub.close)
        endpoint = stack.enter_context(running(hub))
        registry = stack.enter_context(
            running_service("registry", registry_variables(folder, base, endpoint))
        )
        worker = stack.enter_context(
            running_service(
                "worker",
                worker_variables(registry.address, endpoint, folder / "cache", METRICS_ADDRESS="127.0.0.1:0"),
            )
        )
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        metrics = str(worker.wait_for("serving_metrics")["address"])
        yield World(hub, base, folder, worker.address, tokenizer, metrics)
