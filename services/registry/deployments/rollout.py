"""Brings deployments to where their owners want them: one background task for each that is under way."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from services.common import errors, logs
from services.registry.admission.adapter_admission import Admission
from services.registry.bases.base_model import BaseModel
from services.registry.deployments import lifecycle
from services.registry.deployments.book import DeploymentBook
from services.registry.deployments.deployment import AdapterVersion, Deployment, Failure
from services.registry.deployments.sealing import SealBrokenError, Sealer, token_purpose
from services.registry.fleet.fleet import Fleet, Lease
from services.registry.storage.store import Store

_log = logs.get_logger(__name__)

_ADMISSIONS_AT_ONCE = 4
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_MOST_LOST_WORKERS = 8
_MOST_BROKEN_LOADS = 2


@dataclass(frozen=True)
class LoadOrder:
    """An adapter version for a worker to fetch, check, load and probe."""

    version: AdapterVersion
    deployment_uid: str
    """Whose Hub token the download needs; empty where none is stored."""
    account: str
    request_id: str


class LoadRefusedError(Exception):
    """The worker will not load it, now or later."""

    def __init__(self, error: errors.ServiceError) -> None:
        """`error` says why, in the worker's words."""
        super().__init__(error.message)
        self.error = error


class LoadBrokeError(Exception):
    """The worker broke over it, and lives: its own trouble or the adapter's, which another worker shows."""

    def __init__(self, error: errors.ServiceError) -> None:
        """`error` says what happened, in the worker's words."""
        super().__init__(error.message)
        self.error = error


class WorkerBusyError(Exception):
    """The worker answered that it cannot load it now; the message is for people."""


class WorkerLostError(Exception):
    """The worker gave no answer, or died over it."""


LoadAdapter = Callable[[str, LoadOrder], Awaitable[None]]
"""Lets the worker at an address carry out an order. Raises one of the four errors above."""


class Rollouts:
    """The tasks, by deployment."""

    def __init__(
        self,
        *,
        store: Store,
        book: DeploymentBook,
        admission: Admission,
        fleet: Fleet,
        load: LoadAdapter,
        base_models: Mapping[str, BaseModel],
        sealer: Sealer,
        first_pause: float = _FIRST_PAUSE,
    ) -> None:
        self._store = store
        self._book = book
        self._admission = admission
        self._fleet = fleet
        self._load = load
        self._base_models = base_models
        self._sealer = sealer
        self._first_pause = first_pause
        self._admissions = asyncio.Semaphore(_ADMISSIONS_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, uid: str) -> None:
        """Work on a deployment as it is now; what was being done for it before ends first."""
        before = self._tasks.get(uid)
        if before is not None:
            before.cancel()
        task = asyncio.create_task(self._run(uid, before), name=f"rollout {uid}")
        self._tasks[uid] = task
        task.add_done_callback(lambda done: self._forget(uid, done))

    async def cancel(self, uid: str) -> None:
        """End the work on a deployment, and wait until it has ended."""
        task = self._tasks.get(uid)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def stop(self) -> None:
        """End all work. A later start of the registry takes it up again."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, uid: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(uid) is task:
            del self._tasks[uid]

    async def _run(self, uid: str, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        deployment = await self._store.get_by_uid(uid)
        if deployment is None or not deployment.under_way:
            return
        request_id = uuid.uuid4().hex
        with structlog.contextvars.bound_contextvars(
            request_id=request_id, account=deployment.account, deployment=deployment.name
        ):
            try:
                await self._bring_up(deployment, request_id)
            except lifecycle.SupersededError:
                _log.info("rollout_superseded")
            except (
                Exception
            ):  # the database is out of reach: the next start of the registry goes on from here
                _log.exception("rollout_stuck")

    async def _bring_up(self, deployment: Deployment, request_id: str) -> None:
        try:
            version = deployment.wanted.version or await self._admit(deployment)
            await self._load_on_a_worker(deployment, version, request_id)
        except lifecycle.SupersededError:
            raise
        except LoadRefusedError as refused:
            await self._fail(deployment, refused.error)
        except errors.ServiceError as error:
            await self._fail(deployment, error)
        except Exception:  # a defect: its owner must still learn that it is over
            _log.exception("rollout_broken")
            await self._fail(deployment, errors.InternalError(request_id))
        else:
            await self._change(deployment, lifecycle.loaded)
            _log.info("deployment_running", commit=version.commit, digest=version.digest)

    async def _admit(self, deployment: Deployment) -> AdapterVersion:
        base = self._base_models.get(deployment.base_model)
        if base is None:
            raise errors.PreconditionError(
                "BASE_MODEL_REMOVED",
                deployment.base_model,
                f"the operator no longer offers base model {deployment.base_model}; "
                f"offered are {', '.join(self._base_models)}",
            )
        adapter = deployment.wanted
        token = self._open_token(deployment)
        async with self._admissions:
            version = await self._admission.admit(
                adapter.hub_repo,
                adapter.revision,
                token=token,
                base=base,
                accept_base_name=adapter.accept_base_name,
                use_base_template=adapter.use_base_template,
            )
        await self._change(deployment, lambda now: lifecycle.admitted(now, version))
        return version

    def _open_token(self, deployment: Deployment) -> str:
        sealed = deployment.wanted.hub_token
        if sealed is None:
            return ""
        try:
            return self._sealer.open(sealed, token_purpose(deployment.account, deployment.uid))
        except SealBrokenError:
            raise token_unreadable(deployment) from None

    async def _load_on_a_worker(
        self, deployment: Deployment, version: AdapterVersion, request_id: str
    ) -> None:
        order = LoadOrder(
            version=version,
            deployment_uid=deployment.uid if deployment.wanted.hub_token is not None else "",
            account=deployment.account,
            request_id=request_id,
        )
        pause, lost, broken = self._first_pause, 0, 0
        failed_on: set[str] = set()
        while True:
            lease = await self._find_worker(deployment, version, failed_on)
            worker_id = lease.worker.registration.worker_id
            await self._progress(deployment, "loading on a worker")
            try:
                await self._load_under(lease, order)
            except WorkerBusyError as busy:
                await self._progress(deployment, f"waiting to load again: {busy}")
            except LoadBrokeError as broke:
                broken += 1
                _log.warning("load_broke", worker_id=worker_id, error=str(broke), broken=broken)
                if broken == _MOST_BROKEN_LOADS:
                    raise LoadRefusedError(broke.error) from None
                await self._progress(deployment, "a worker could not load it; trying another")
            except WorkerLostError as gone:
                lost += 1
                _log.warning("worker_lost_while_loading", worker_id=worker_id, error=str(gone), lost=lost)
                if lost == _MOST_LOST_WORKERS:
                    raise _keeps_losing_workers(lost) from None
                await self._progress(deployment, "a worker was lost while loading; trying again")
            else:
                return
            failed_on.add(worker_id)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _find_worker(
        self, deployment: Deployment, version: AdapterVersion, failed_on: set[str]
    ) -> Lease:
        base = deployment.base_model
        lease = self._fleet.pick(base, version.digest, rather_not=failed_on)
        if lease is None:
            await self._progress(deployment, f"waiting for a worker of base model {base}")
            lease = await self._fleet.lease_for(base, version.digest, rather_not=failed_on)
        return lease

    async def _load_under(self, lease: Lease, order: LoadOrder) -> None:
        """Load for as long as the worker has its lease: one that has gone quiet does not hold up the rest."""
        loading = asyncio.ensure_future(self._load(lease.worker.registration.address, order))
        try:
            await asyncio.wait({loading, lease.ended}, return_when=asyncio.FIRST_COMPLETED)
            if not loading.done():
                raise WorkerLostError("its lease has ended")
            await loading
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)

    async def _progress(self, deployment: Deployment, message: str) -> None:
        await self._change(deployment, lambda now: lifecycle.progressed(now, message))

    async def _fail(self, deployment: Deployment, error: errors.ServiceError) -> None:
        """Note why. Every failure comes in here, and from an error, which is bounded where it is made."""
        failure = Failure.of(error)
        await self._change(deployment, lambda now: lifecycle.failed(now, failure))
        _log.info("deployment_failed", reason=failure.reason, message=failure.message)

    async def _change(self, deployment: Deployment, transition: Callable[[Deployment], Deployment]) -> None:
        def guarded(now: Deployment) -> Deployment:
            lifecycle.check_generation(now, deployment.generation)
            return transition(now)

        await self._book.change(deployment.uid, guarded)


def token_unreadable(deployment: Deployment) -> errors.PreconditionError:
    """The operator's key is not the one that the token was sealed with."""
    return errors.PreconditionError(
        "HUB_TOKEN_UNREADABLE",
        deployment.name,
        f"the stored Hub token of {deployment.name} cannot be read any more; send it again with an update",
    )


def _keeps_losing_workers(lost: int) -> errors.UnavailableError:
    return errors.UnavailableError(
        "WORKERS_LOST",
        f"{lost} workers were lost while they loaded the adapter; update the deployment to try again",
        retry_after=_LONGEST_PAUSE,
        metadata={"lost": str(lost)},
    )
