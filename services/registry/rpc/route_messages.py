"""What gateways route by, as messages: an update in parts that are bounded in bytes."""

from collections.abc import Iterator

from loramux.fleet.v1 import routing_pb2
from services.common.errors import shorten
from services.registry.deployments.deployment import Deployment
from services.registry.fleet.route_log import RoutesUpdate, TableVersion
from services.registry.fleet.worker import Departure, Worker
from services.registry.rpc.adapter_ref_messages import adapter_ref
from services.registry.rpc.base_model_messages import base_model
from services.registry.rpc.deployment_value_messages import STATES
from services.registry.rpc.lease_messages import registration_message, report_message

PART_BYTES = 1_000_000
"""Of a part's entries. What names the part comes on top, and all of it stays below 1 MiB."""

_MAX_LINE = 256
"""Bytes of a failure's words: who asks for a model that failed is told in a line."""
_REASONS = {
    Departure.DRAINED: routing_pb2.RemovedWorker.REASON_DRAINED,
    Departure.LOST: routing_pb2.RemovedWorker.REASON_LOST,
}


def resume_from(request: routing_pb2.WatchRoutesRequest) -> TableVersion | None:
    """What the gateway has; None where it has nothing."""
    if not request.HasField("resume_from"):
        return None
    return TableVersion(request.resume_from.table, request.resume_from.number)


def route_parts(update: RoutesUpdate) -> Iterator[routing_pb2.WatchRoutesResponse]:
    """An update in messages below the limit: all but the last say that others follow, the last has the version."""
    part, size = routing_pb2.WatchRoutesResponse(snapshot=update.snapshot), 0
    for entry in _entries(update):
        entry_size = entry.ByteSize()
        if size and size + entry_size > PART_BYTES:
            part.more = True
            yield part
            part, size = routing_pb2.WatchRoutesResponse(snapshot=update.snapshot), 0
        part.MergeFrom(entry)
        size += entry_size
    part.version.table, part.version.number = update.version.table, update.version.number
    yield part


def _entries(update: RoutesUpdate) -> Iterator[routing_pb2.WatchRoutesResponse]:
    """An update as messages of one entry each; the sizes of messages of repeated fields add up when they are merged."""
    part = routing_pb2.WatchRoutesResponse
    for base in update.base_models:
        yield part(base_models=[routing_pb2.BaseRoute(base_model=base_model(base))])
    for name in update.removed_base_models:
        yield part(removed_base_models=[name])
    for deployment in update.deployments:
        yield part(deployments=[_deployment_route(deployment)])
    for uid in update.removed_deployments:
        yield part(removed_deployments=[uid])
    for worker in update.workers:
        yield part(workers=[_worker_route(worker)])
    for worker_id, departure in update.removed_workers:
        gone = routing_pb2.RemovedWorker(worker_id=worker_id, reason=_REASONS[departure])
        yield part(removed_workers=[gone])


def _deployment_route(one: Deployment) -> routing_pb2.DeploymentRoute:
    version = one.serving.version
    token_of = one.uid if one.serving.hub_token is not None else ""
    route = routing_pb2.DeploymentRoute(
        name=one.name,
        uid=one.uid,
        account=one.account,
        base_model=one.base_model,
        state=STATES[one.state],
        adapter=None if version is None else adapter_ref(version, token_of),
        extras_sha256="" if version is None else version.extras.sha256,
    )
    if one.failure is not None:
        route.failure_reason = one.failure.reason
        route.failure_message = shorten(one.failure.message.partition("\n")[0], _MAX_LINE)
    return route


def _worker_route(worker: Worker) -> routing_pb2.WorkerRoute:
    return routing_pb2.WorkerRoute(
        registration=registration_message(worker.registration), report=report_message(worker.report)
    )
