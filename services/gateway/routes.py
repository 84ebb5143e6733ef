"""Where requests can go, as the registry last said: base models, deployments, workers."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from services.common import errors
from services.gateway.billing.money import TokenPrice

_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class BaseModel:
    """A base model that the operator serves."""

    name: str
    commit: str
    context_length: int
    price: TokenPrice
    vocabulary_size: int = 0
    """Token ids are below this; 0 where the registry does not say."""


class DeploymentState(Enum):
    """As far as routing cares."""

    LOADING = auto()
    RUNNING = auto()
    FAILED = auto()
    DELETED = auto()


@dataclass(frozen=True)
class Failure:
    """Why a deployment does not serve."""

    reason: str
    message: str


@dataclass(frozen=True)
class AdapterVersion:
    """What a worker needs to fetch and check an adapter; fields as in fleet.proto."""

    digest: str
    hub_repo: str
    commit: str
    config_sha256: str
    weights_sha256: str
    size_bytes: int
    deployment_uid: str


@dataclass(frozen=True)
class Deployment:
    """A name for an adapter."""

    name: str
    uid: str
    account: str
    base_model: str
    state: DeploymentState
    failure: Failure
    adapter: AdapterVersion | None
    """The version that serves; during an update still the old one."""
    extras_sha256: str = ""
    """Names what that version's repo brings beside the adapter; empty where that is nothing."""


@dataclass(frozen=True)
class Worker:
    """A worker, with its last report."""

    id: str
    address: str
    base_model: str
    max_sequences: int
    resident: frozenset[str]
    """Digests of the adapters in its device memory."""
    running: int
    waiting: int
    draining: bool
    context_length: int = 0
    """The longest prompt and output together that it can hold; 0 sets no bound of its own."""


@dataclass(frozen=True)
class RouteUpdate:
    """A change of the registry's, or all that it knows."""

    snapshot: bool
    """Replaces everything known before."""
    base_models: Sequence[BaseModel] = ()
    removed_base_models: Sequence[str] = ()
    """Names."""
    deployments: Sequence[Deployment] = ()
    removed_deployments: Sequence[str] = ()
    """uids."""
    workers: Sequence[Worker] = ()
    removed_workers: Sequence[str] = ()
    """ids."""
    lost_workers: Sequence[str] = ()
    """Of the removed ones those whose lease ended: what runs on them may never end."""


@dataclass(frozen=True)
class Target:
    """What a model's name stands for."""

    model: str
    base: BaseModel
    adapter: AdapterVersion | None
    """None runs the base."""
    context_length: int
    """The longest prompt and output together that every worker of the base can hold."""
    deployment_uid: str = ""
    """Empty for a base."""
    extras_sha256: str = ""
    """Names what the adapter's repo brings beside it; empty where the base's stands."""


class RouteTable:
    """The last state of the fleet that the registry told; kept while the registry is away."""

    def __init__(self) -> None:
        self._known = asyncio.Event()
        self._bases: dict[str, BaseModel] = {}
        self._deployments: dict[str, Deployment] = {}
        self._uids: dict[str, str] = {}
        self._workers: dict[str, Worker] = {}

    def apply(self, update: RouteUpdate) -> None:
        """Take in an update whole. Removals come first: a name may pass from one deployment to another."""
        if update.snapshot:
            for table in (self._bases, self._deployments, self._uids, self._workers):
                table.clear()
        for uid in update.removed_deployments:
            gone = self._deployments.pop(uid, None)
            if gone is not None and self._uids.get(gone.name) == uid:
                del self._uids[gone.name]
        for worker_id in update.removed_workers:
            self._workers.pop(worker_id, None)
        for name in update.removed_base_models:
            self._bases.pop(name, None)
        self._bases.update((base.name, base) for base in update.base_models)
        for deployment in update.deployments:
            self._deployments[deployment.uid] = deployment
            self._uids[deployment.name] = deployment.uid
        self._workers.update((worker.id, worker) for worker in update.workers)
        self._known.set()

    async def known(self) -> None:
        """Wait for the registry's first message."""
        await self._known.wait()

    def base_models(self) -> Collection[BaseModel]:
        """All base models. Raises UnavailableError when the registry has never been heard."""
        self._check_known()
        return self._bases.values()

    def workers(self) -> Collection[Worker]:
        """All workers, draining ones too."""
        return self._workers.values()

    def resolve(self, model: str, account: str) -> Target:
        """What `model` stands for when `account` asks.

        Raises NotFoundError for an unknown model and, word for word the same, for another account's;
        UnavailableError while a deployment loads, or when the registry has never been heard;
        PreconditionError for a deployment that failed.
        """
        self._check_known()
        base = self._bases.get(model)
        if base is not None:
            return Target(model=model, base=base, adapter=None, context_length=self._context_length(base))
        deployment = self._deployments.get(self._uids.get(model, ""))
        if deployment is None or deployment.account != account or deployment.state is DeploymentState.DELETED:
            raise errors.NotFoundError("model", model)
        return self._through(deployment)

    def _through(self, deployment: Deployment) -> Target:
        if deployment.state is DeploymentState.FAILED:
            failure = deployment.failure
            raise errors.PreconditionError(
                failure.reason or "DEPLOYMENT_FAILED",
                deployment.name,
                failure.message or f"deployment {deployment.name} has failed",
            )
        base = self._bases.get(deployment.base_model)
        if deployment.state is not DeploymentState.RUNNING or deployment.adapter is None or base is None:
            raise errors.UnavailableError(
                "DEPLOYMENT_LOADING",
                f"deployment {deployment.name} is not loaded yet",
                retry_after=_RETRY_SECONDS,
                metadata={"resource_name": deployment.name},
            )
        return Target(
            model=deployment.name,
            base=base,
            adapter=deployment.adapter,
            context_length=self._context_length(base),
            deployment_uid=deployment.uid,
            extras_sha256=deployment.extras_sha256,
        )

    def _context_length(self, base: BaseModel) -> int:
        served = (one.context_length for one in self._workers.values() if one.base_model == base.name)
        return min((base.context_length, *(length for length in served if length)))

    def _check_known(self) -> None:
        if not self._known.is_set():
            raise errors.UnavailableError(
                "NO_ROUTES",
                "the gateway has not heard from its registry yet",
                retry_after=_RETRY_SECONDS,
            )
