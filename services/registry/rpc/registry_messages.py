"""Between the registry's values and the messages of its services."""

from collections.abc import Iterator

from loramux.deployment.v1 import deployment_pb2
from loramux.fleet.v1 import fleet_pb2
from services.registry.bases.base_model import BaseModel, Price, Tokenizer
from services.registry.deployments.deployment import Adapter, AdapterVersion, Deployment, Failure, State
from services.registry.fleet.route_log import RoutesUpdate
from services.registry.fleet.worker import Registration, Report, Worker

DEPLOYMENTS_PER_MESSAGE = 1000
"""Of at most some 2 KB each, which stays below gRPC's message limit of 4 MB."""
TOKENIZER_PIECE = 1024**2

_STATES = {
    State.INITIALIZING: deployment_pb2.STATE_INITIALIZING,
    State.DEPLOYING: deployment_pb2.STATE_DEPLOYING,
    State.RUNNING: deployment_pb2.STATE_RUNNING,
    State.FAILED: deployment_pb2.STATE_FAILED,
    State.DELETED: deployment_pb2.STATE_DELETED,
}


def base_model(base: BaseModel) -> deployment_pb2.BaseModel:
    """As clients see it."""
    return deployment_pb2.BaseModel(
        name=base.name,
        hub_ids=base.hub_ids,
        commit=base.commit,
        context_length=base.context_length,
        max_lora_rank=base.max_lora_rank,
        target_modules=base.target_modules,
        price=_price(base.price),
        lora_price=_price(base.price.for_lora()),
    )


def _price(price: Price) -> deployment_pb2.Price:
    return deployment_pb2.Price(
        prompt_pico_usd_per_token=price.prompt, completion_pico_usd_per_token=price.completion
    )


def base_source(base: BaseModel) -> fleet_pb2.BaseModelSource:
    """Where a worker finds its files."""
    if base.local_path:
        return fleet_pb2.BaseModelSource(local_path=base.local_path)
    return fleet_pb2.BaseModelSource(hub_repo=base.hub_repo)


def tokenizer_pieces(base: BaseModel) -> Iterator[fleet_pb2.GetTokenizerResponse]:
    """The tokenizer in messages below the limit; the first carries everything but the rest of the file."""
    tokenizer: Tokenizer = base.tokenizer
    data = tokenizer.tokenizer_json
    yield fleet_pb2.GetTokenizerResponse(
        commit=base.commit,
        chat_template=tokenizer.chat_template,
        special_tokens=tokenizer.special_tokens,
        tokenizer_json=data[:TOKENIZER_PIECE],
    )
    for begin in range(TOKENIZER_PIECE, len(data), TOKENIZER_PIECE):
        yield fleet_pb2.GetTokenizerResponse(tokenizer_json=data[begin : begin + TOKENIZER_PIECE])


def deployment(one: Deployment) -> deployment_pb2.Deployment:
    """As its owner sees it. The token stays behind."""
    message = deployment_pb2.Deployment(
        name=one.name,
        uid=one.uid,
        base_model=one.base_model,
        state=_STATES[one.state],
        failure=_failure(one.failure),
        status_message=one.status_message,
        adapter=_adapter(one.adapter),
        candidate=None if one.candidate is None else _adapter(one.candidate),
        has_hub_token=one.pending.hub_token is not None,
        etag=one.etag,
    )
    message.create_time.FromDatetime(one.create_time)
    message.update_time.FromDatetime(one.update_time)
    return message


def _failure(failure: Failure | None) -> deployment_pb2.Failure | None:
    if failure is None:
        return None
    return deployment_pb2.Failure(reason=failure.reason, message=failure.message, metadata=failure.metadata)


def _adapter(adapter: Adapter) -> deployment_pb2.AdapterVersion:
    version = adapter.version
    if version is None:
        return deployment_pb2.AdapterVersion(hub_repo=adapter.hub_repo, revision=adapter.revision)
    return deployment_pb2.AdapterVersion(
        hub_repo=adapter.hub_repo,
        revision=adapter.revision,
        commit=version.commit,
        digest=version.digest,
        size_bytes=version.size_bytes,
        rank=version.rank,
        target_modules=version.target_modules,
    )


def adapter_ref(version: AdapterVersion, deployment_uid: str) -> fleet_pb2.AdapterRef:
    """As a worker fetches it; `deployment_uid` is empty where no Hub token is stored."""
    return fleet_pb2.AdapterRef(
        digest=version.digest,
        hub_repo=version.hub_repo,
        commit=version.commit,
        config_sha256=version.config_sha256,
        weights_sha256=version.weights_sha256,
        size_bytes=version.size_bytes,
        deployment_uid=deployment_uid,
    )


def routes_messages(update: RoutesUpdate) -> Iterator[fleet_pb2.WatchRoutesResponse]:
    """An update in messages below the limit. What does not fit into the first follows as changes."""
    parts = [
        update.deployments[begin : begin + DEPLOYMENTS_PER_MESSAGE]
        for begin in range(0, len(update.deployments), DEPLOYMENTS_PER_MESSAGE)
    ] or [()]
    yield fleet_pb2.WatchRoutesResponse(
        snapshot=update.snapshot,
        base_models=[fleet_pb2.BaseRoute(base_model=base_model(base)) for base in update.base_models],
        deployments=[_deployment_route(one) for one in parts[0]],
        removed_deployments=update.removed_deployments,
        workers=[_worker_route(one) for one in update.workers],
        removed_workers=update.removed_workers,
    )
    for part in parts[1:]:
        yield fleet_pb2.WatchRoutesResponse(deployments=[_deployment_route(one) for one in part])


def _deployment_route(one: Deployment) -> fleet_pb2.DeploymentRoute:
    version = one.adapter.version
    token_of = one.uid if one.adapter.hub_token is not None else ""
    return fleet_pb2.DeploymentRoute(
        name=one.name,
        uid=one.uid,
        account_id=one.account,
        base_model=one.base_model,
        state=_STATES[one.state],
        failure=_failure(one.failure),
        adapter=None if version is None else adapter_ref(version, token_of),
    )


def _worker_route(worker: Worker) -> fleet_pb2.WorkerRoute:
    registration, report = worker.registration, worker.report
    return fleet_pb2.WorkerRoute(
        registration=fleet_pb2.WorkerRegistration(
            worker_id=registration.worker_id,
            address=registration.address,
            base_model=registration.base_model,
            base_commit=registration.base_commit,
            max_sequences=registration.max_sequences,
            adapter_slots=registration.adapter_slots,
        ),
        report=fleet_pb2.WorkerReport(
            resident_digests=sorted(report.resident_digests),
            running_sequences=report.running_sequences,
            waiting_sequences=report.waiting_sequences,
            draining=report.draining,
        ),
    )


def registration_of(message: fleet_pb2.WorkerRegistration) -> Registration:
    """What a worker says of itself once."""
    return Registration(
        worker_id=message.worker_id,
        address=message.address,
        base_model=message.base_model,
        base_commit=message.base_commit,
        max_sequences=message.max_sequences,
        adapter_slots=message.adapter_slots,
    )


def report_of(message: fleet_pb2.WorkerReport) -> Report:
    """What a worker says of itself again and again."""
    return Report(
        resident_digests=frozenset(message.resident_digests),
        running_sequences=message.running_sequences,
        waiting_sequences=message.waiting_sequences,
        draining=message.draining,
    )
