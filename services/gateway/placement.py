"""Which worker runs a request."""

from collections.abc import Collection, Iterable, Mapping

from services.gateway.routes import Worker


def choose(
    workers: Iterable[Worker],
    *,
    base_model: str,
    adapter_digest: str | None,
    in_flight: Mapping[str, int],
    exclude: Collection[str] = (),
) -> Worker | None:
    """The best worker of a base model; None where there is none that takes new work.

    Workers where the adapter is resident come first, unless all of them are loaded and another is not: then
    the request spills, and the adapter is loaded there. Among equals the one with least in flight.

    `in_flight` counts this gateway's own requests by worker id: reports lag, and a burst would otherwise all go
    to the worker that was idle a second ago. `exclude` names workers that have just failed this request.
    """
    candidates = [
        worker
        for worker in workers
        if worker.base_model == base_model and not worker.draining and worker.id not in exclude
    ]
    if not candidates:
        return None
    if adapter_digest is not None:
        resident = [worker for worker in candidates if adapter_digest in worker.resident]
        free = [worker for worker in candidates if not _is_loaded(worker, in_flight)]
        candidates = [worker for worker in resident if worker in free] or free or resident or candidates

    def load(worker: Worker) -> tuple[int, str]:
        return worker.running + worker.waiting + in_flight.get(worker.id, 0), worker.id

    return min(candidates, key=load)


def _is_loaded(worker: Worker, in_flight: Mapping[str, int]) -> bool:
    # Its report counts ours too, once it catches up.
    known = max(worker.running + worker.waiting, in_flight.get(worker.id, 0))
    return known >= worker.max_sequences
