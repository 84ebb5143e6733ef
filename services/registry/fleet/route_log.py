"""What gateways route by: one table in memory with a version, and readers that catch up from where they are.

No reader has a queue. The table keeps a bounded log of which entries changed when; a reader that has fallen
behind the log gets everything afresh.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from services.registry.bases.base_model import BaseModel
from services.registry.deployments.changes import draining
from services.registry.deployments.deployment import Deployment, State
from services.registry.fleet.signals import Signal
from services.registry.fleet.worker import Worker

LOG_LENGTH = 4096


@dataclass(frozen=True)
class RoutesUpdate:
    """What has changed since the reader's last one, or everything."""

    version: int
    """Where the reader is once it has taken this in."""
    snapshot: bool
    base_models: Sequence[BaseModel]
    """Filled in a snapshot only: they do not change while the registry runs."""
    deployments: Sequence[Deployment]
    removed_deployments: Sequence[str]
    """uids."""
    workers: Sequence[Worker]
    removed_workers: Sequence[str]
    """worker ids."""


@dataclass(frozen=True)
class _Change:
    """Of one or the other."""

    deployment: str = ""
    worker: str = ""


class Routes:
    """The table. Its writers are the book of deployments and the fleet."""

    def __init__(self, base_models: Iterable[BaseModel], *, log_length: int = LOG_LENGTH) -> None:
        self._base_models = tuple(base_models)
        self._deployments: dict[str, Deployment] = {}
        self._workers: dict[str, Worker] = {}
        self._version = 0
        self._log: deque[_Change] = deque(maxlen=log_length)
        self._signal = Signal()
        self._ended = False

    def set_deployment(self, deployment: Deployment) -> None:
        """Put in the latest value of a deployment; a deleted one leaves."""
        if deployment.state is State.DELETED:
            if self._deployments.pop(deployment.uid, None) is None:
                return
        else:
            self._deployments[deployment.uid] = deployment
        self._note(_Change(deployment=deployment.uid))

    def set_worker(self, worker: Worker) -> None:
        """Put in the latest value of a worker."""
        if self._workers.get(worker.registration.worker_id) != worker:
            self._workers[worker.registration.worker_id] = worker
            self._note(_Change(worker=worker.registration.worker_id))

    def remove_worker(self, worker_id: str) -> None:
        """A worker is gone."""
        if self._workers.pop(worker_id, None) is not None:
            self._note(_Change(worker=worker_id))

    async def next(self, seen: int | None) -> RoutesUpdate:
        """What a reader that has got to version `seen` lacks, waiting for it; None has seen nothing.

        Raises UnavailableError once the registry stops.
        """
        while seen == self._version and not self._ended:
            await self._signal.wait()
        if self._ended:
            raise draining()
        if seen is None or self._version - seen > len(self._log):
            return self._snapshot()
        return self._since(seen)

    def end(self) -> None:
        """Let every reader's `next` raise."""
        self._ended = True
        self._signal.notify()

    def _note(self, change: _Change) -> None:
        self._version += 1
        self._log.append(change)
        self._signal.notify()

    def _since(self, version: int) -> RoutesUpdate:
        # Every change has the version after the one before it, so the newest ones are the log's end.
        changes = list(islice(reversed(self._log), self._version - version))[::-1]
        deployments = dict.fromkeys(change.deployment for change in changes if change.deployment)
        workers = dict.fromkeys(change.worker for change in changes if change.worker)
        return RoutesUpdate(
            version=self._version,
            snapshot=False,
            base_models=(),
            deployments=[self._deployments[uid] for uid in deployments if uid in self._deployments],
            removed_deployments=[uid for uid in deployments if uid not in self._deployments],
            workers=[self._workers[one] for one in workers if one in self._workers],
            removed_workers=[one for one in workers if one not in self._workers],
        )

    def _snapshot(self) -> RoutesUpdate:
        return RoutesUpdate(
            version=self._version,
            snapshot=True,
            base_models=self._base_models,
            deployments=tuple(self._deployments.values()),
            removed_deployments=(),
            workers=tuple(self._workers.values()),
            removed_workers=(),
        )
