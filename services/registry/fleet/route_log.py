"""What gateways route by: one table in memory with a version, and readers that catch up from where they are.

No reader has a queue. The table keeps a bounded log of which entries changed when; a reader that has fallen
behind the log, or comes from another table, gets everything afresh.
"""

import uuid
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from services.registry.bases.base_model import BaseModel
from services.registry.deployments.changes import draining
from services.registry.deployments.deployment import Deployment, State
from services.registry.fleet.signals import Signal
from services.registry.fleet.worker import Departure, Worker

LOG_LENGTH = 4096


@dataclass(frozen=True)
class TableVersion:
    """A moment of one table."""

    table: str
    """The table's own id; another one has other numbers."""
    number: int


@dataclass(frozen=True)
class RoutesUpdate:
    """What has changed since the reader's last one, or everything."""

    version: TableVersion
    """Where the reader is once it has taken this in."""
    snapshot: bool
    base_models: Sequence[BaseModel] = ()
    removed_base_models: Sequence[str] = ()
    """Names."""
    deployments: Sequence[Deployment] = ()
    removed_deployments: Sequence[str] = ()
    """uids."""
    workers: Sequence[Worker] = ()
    removed_workers: Sequence[tuple[str, Departure]] = ()
    """By worker id."""


class _Kind(Enum):
    BASE_MODEL = "base model"
    DEPLOYMENT = "deployment"
    WORKER = "worker"


@dataclass(frozen=True)
class _Change:
    """Which entry has changed, or left."""

    kind: _Kind
    key: str
    departure: Departure = Departure.LOST
    """Of a worker that has left."""


class Routes:
    """The table. Its writers are the book of deployments and the fleet."""

    def __init__(self, base_models: Iterable[BaseModel], *, log_length: int = LOG_LENGTH) -> None:
        self._table = uuid.uuid4().hex
        self._base_models = {base.name: base for base in base_models}
        self._deployments: dict[str, Deployment] = {}
        self._workers: dict[str, Worker] = {}
        self._number = 0
        self._log: deque[_Change] = deque(maxlen=log_length)
        self._signal = Signal()
        self._ended = False

    def set_base_model(self, base: BaseModel) -> None:
        """Put in a base model, or its latest value."""
        self._base_models[base.name] = base
        self._note(_Change(_Kind.BASE_MODEL, base.name))

    def remove_base_model(self, name: str) -> None:
        """A base model is not on offer any more."""
        if self._base_models.pop(name, None) is not None:
            self._note(_Change(_Kind.BASE_MODEL, name))

    def set_deployment(self, deployment: Deployment) -> None:
        """Put in the latest value of a deployment; a deleted one leaves."""
        if deployment.state is State.DELETED:
            if self._deployments.pop(deployment.uid, None) is None:
                return
        else:
            self._deployments[deployment.uid] = deployment
        self._note(_Change(_Kind.DEPLOYMENT, deployment.uid))

    def set_worker(self, worker: Worker) -> None:
        """Put in the latest value of a worker."""
        if self._workers.get(worker.registration.worker_id) != worker:
            self._workers[worker.registration.worker_id] = worker
            self._note(_Change(_Kind.WORKER, worker.registration.worker_id))

    def remove_worker(self, worker_id: str, departure: Departure) -> None:
        """A worker is gone."""
        if self._workers.pop(worker_id, None) is not None:
            self._note(_Change(_Kind.WORKER, worker_id, departure))

    async def next(self, seen: TableVersion | None) -> RoutesUpdate:
        """What a reader that has got to version `seen` lacks, waiting for it; None has seen nothing.

        Raises UnavailableError once the registry stops.
        """
        while seen == self._version() and not self._ended:
            await self._signal.wait()
        if self._ended:
            raise draining()
        if seen is None or not self._is_in_the_log(seen):
            return self._snapshot()
        return self._since(seen.number)

    def end(self) -> None:
        """Let every reader's `next` raise."""
        self._ended = True
        self._signal.notify()

    def _note(self, change: _Change) -> None:
        self._number += 1
        self._log.append(change)
        self._signal.notify()

    def _version(self) -> TableVersion:
        return TableVersion(self._table, self._number)

    def _is_in_the_log(self, seen: TableVersion) -> bool:
        return seen.table == self._table and self._number - len(self._log) <= seen.number <= self._number

    def _since(self, number: int) -> RoutesUpdate:
        # Every change has the version after the one before it, so the newest ones are the log's end. Of several of
        # one entry the last counts.
        changes = list(islice(reversed(self._log), self._number - number))[::-1]
        last = {(change.kind, change.key): change for change in changes}
        bases = [key for kind, key in last if kind is _Kind.BASE_MODEL]
        deployments = [key for kind, key in last if kind is _Kind.DEPLOYMENT]
        workers = {key: change.departure for (kind, key), change in last.items() if kind is _Kind.WORKER}
        return RoutesUpdate(
            version=self._version(),
            snapshot=False,
            base_models=[self._base_models[name] for name in bases if name in self._base_models],
            removed_base_models=[name for name in bases if name not in self._base_models],
            deployments=[self._deployments[uid] for uid in deployments if uid in self._deployments],
            removed_deployments=[uid for uid in deployments if uid not in self._deployments],
            workers=[self._workers[one] for one in workers if one in self._workers],
            removed_workers=[(one, why) for one, why in workers.items() if one not in self._workers],
        )

    def _snapshot(self) -> RoutesUpdate:
        return RoutesUpdate(
            version=self._version(),
            snapshot=True,
            base_models=tuple(self._base_models.values()),
            deployments=tuple(self._deployments.values()),
            workers=tuple(self._workers.values()),
        )
