"""The workers under lease: who is there, who has gone quiet, and which one should load an adapter."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence

from services.common.clock import Clock
from services.common.errors import InvalidFieldError, PreconditionError, ServiceError, UnavailableError
from services.common.logs import get_logger
from services.registry.bases.base_model import BaseModel
from services.registry.deployments.changes import draining
from services.registry.fleet.route_log import Routes
from services.registry.fleet.signals import Signal
from services.registry.fleet.worker import Departure, Registration, Report, Worker

_log = get_logger(__name__)

REPORT_INTERVAL = 1.0
"""Seconds between two reports of a worker."""
OVERDUE = 15.0
"""Seconds after which a report that has not come ends the lease."""


class Lease:
    """One worker's place in the fleet, until `ended` has a result or an exception."""

    def __init__(self, fleet: "Fleet", worker: Worker, deadline: float) -> None:
        self._fleet = fleet
        self.worker = worker
        self.deadline = deadline
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the worker is gone; an exception says why it was sent away."""
        # Whoever does not ask why is not to be told by a warning.
        self.ended.add_done_callback(lambda future: future.exception())

    def report(self, report: Report) -> None:
        """Renew the lease with a new report. Raises InvalidFieldError where it is out of bounds."""
        report.check()
        self._fleet.renew(self, report)

    def close(self) -> None:
        """The worker has left."""
        self._fleet.end(self, None)


class Fleet:
    """All leases. Time is the clock's: `expire` must be called now and then."""

    def __init__(self, base_models: Mapping[str, BaseModel], routes: Routes, clock: Clock) -> None:
        self._base_models = base_models
        self._routes = routes
        self._clock = clock
        self._leases: dict[str, Lease] = {}
        self._signal = Signal()

    def register(self, registration: Registration) -> Lease:
        """Take a worker in. Raises InvalidFieldError or PreconditionError where it does not fit."""
        self._check(registration)
        before = self._leases.get(registration.worker_id)
        if before is not None:
            self.end(
                before,
                UnavailableError("LEASE_TAKEN_OVER", "the worker has registered again", retry_after=1.0),
            )
        lease = Lease(self, Worker(registration, Report()), self._deadline())
        self._leases[registration.worker_id] = lease
        self._changed(lease)
        _log.info("worker_registered", worker_id=registration.worker_id, address=registration.address,
                  base_model=registration.base_model)  # fmt: skip
        return lease

    def restore(self, registrations: Iterable[Registration]) -> None:
        """Take in workers of before a restart; they have the usual time to register again."""
        for registration in registrations:
            try:
                self.register(registration)
            except ServiceError as error:
                _log.info("worker_not_restored", worker_id=registration.worker_id, reason=error.reason)

    def registrations(self) -> Sequence[Registration]:
        """Everybody under lease, by worker id."""
        return [self._leases[worker_id].worker.registration for worker_id in sorted(self._leases)]

    def renew(self, lease: Lease, report: Report) -> None:
        """Take in a report of a lease that has not ended."""
        if not lease.ended.done():
            lease.worker = Worker(lease.worker.registration, report)
            lease.deadline = self._deadline()
            self._changed(lease)

    def end(self, lease: Lease, error: UnavailableError | None) -> None:
        """Take a worker out, once."""
        if lease.ended.done():
            return
        worker_id = lease.worker.registration.worker_id
        # One that leaves says before whether it does so in order.
        in_order = error is None and lease.worker.report.draining
        departure = Departure.DRAINED if in_order else Departure.LOST
        del self._leases[worker_id]
        self._routes.remove_worker(worker_id, departure)
        self._signal.notify()
        _log.info(
            "worker_gone",
            worker_id=worker_id,
            departure=departure.value,
            reason="left" if error is None else error.reason,
        )
        if error is None:
            lease.ended.set_result(None)
        else:
            lease.ended.set_exception(error)

    def expire(self) -> None:
        """End the leases whose report is overdue."""
        now = self._clock.monotonic()
        for lease in [one for one in self._leases.values() if one.deadline <= now]:
            self.end(
                lease,
                UnavailableError(
                    "LEASE_EXPIRED", f"no report for {OVERDUE:g} s; register again", retry_after=1.0
                ),
            )

    def end_all(self) -> None:
        """The registry stops: every worker is told to register again."""
        for lease in list(self._leases.values()):
            self.end(lease, draining())

    async def lease_for(self, base_model: str, digest: str, *, rather_not: Collection[str] = ()) -> Lease:
        """The lease of a worker of this base that takes new work, waiting until there is one.

        Where the adapter is resident already comes first, then least busy; workers of `rather_not` come last.
        """
        while True:
            lease = self.pick(base_model, digest, rather_not=rather_not)
            if lease is not None:
                return lease
            await self._signal.wait()

    def context_length(self, base: BaseModel) -> int:
        """The longest prompt and output together that every worker of a base can hold."""
        served = (
            lease.worker.registration.capabilities.context_length
            for lease in self._leases.values()
            if lease.worker.registration.base_model == base.name
        )
        return min((base.context_length, *(length for length in served if length)))

    def pick(self, base_model: str, digest: str, *, rather_not: Collection[str] = ()) -> Lease | None:
        """As lease_for, without waiting."""
        able = [
            lease
            for lease in self._leases.values()
            if lease.worker.registration.base_model == base_model and not lease.worker.report.draining
        ]

        def preference(lease: Lease) -> tuple[bool, bool, int]:
            report = lease.worker.report
            return (
                lease.worker.registration.worker_id in rather_not,
                digest not in report.resident_digests,
                report.running_sequences + report.waiting_sequences,
            )

        return min(able, key=preference, default=None)

    def _changed(self, lease: Lease) -> None:
        self._routes.set_worker(lease.worker)
        self._signal.notify()

    def _deadline(self) -> float:
        return self._clock.monotonic() + REPORT_INTERVAL + OVERDUE

    def _check(self, registration: Registration) -> None:
        registration.check()
        base = self._base_models.get(registration.base_model)
        if base is None:
            raise InvalidFieldError(
                "registration.base_model", registration.base_model, f"one of {', '.join(self._base_models)}"
            )
        if registration.base_commit != base.commit:
            raise PreconditionError(
                "BASE_COMMIT_MISMATCH",
                base.name,
                f"the worker has commit {registration.base_commit} of base model {base.name}; "
                f"the registry has {base.commit}",
            )
