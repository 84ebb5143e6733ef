"""Deployments as messages, and what callers ask of them from messages; what is not done yet is refused by name."""

from collections.abc import Mapping

from loramux.deployment.v1 import deployment_pb2
from services.common.errors import InvalidFieldError, NotImplementedYetError
from services.registry.deployments.deployment import Adapter, Deployment, Failure, RepoExtras, State
from services.registry.deployments.list_query import ListQuery, Order
from services.registry.deployments.request_fields import CreateRequest, UpdateRequest

STATES: Mapping[State, deployment_pb2.Deployment.State] = {
    State.INITIALIZING: deployment_pb2.Deployment.STATE_INITIALIZING,
    State.DEPLOYING: deployment_pb2.Deployment.STATE_DEPLOYING,
    State.RUNNING: deployment_pb2.Deployment.STATE_RUNNING,
    State.FAILED: deployment_pb2.Deployment.STATE_FAILED,
    State.DELETED: deployment_pb2.Deployment.STATE_DELETED,
}
_STATES_OF = {number: state for state, number in STATES.items()}

_List = deployment_pb2.ListDeploymentsRequest
_ORDERS = {
    _List.ORDER_UNSPECIFIED: Order.CREATE_TIME,
    _List.ORDER_CREATE_TIME: Order.CREATE_TIME,
    _List.ORDER_CREATE_TIME_DESCENDING: Order.CREATE_TIME_DESCENDING,
    _List.ORDER_NAME: Order.NAME,
}


def deployment(one: Deployment, *, in_a_list: bool = False) -> deployment_pb2.Deployment:
    """As its owner sees it. The token stays behind, and in a list the chat templates, which would not fit."""
    message = deployment_pb2.Deployment(
        name=one.name,
        uid=one.uid,
        base_model=one.base_model,
        target=deployment_pb2.DeploymentTarget(shared_base=deployment_pb2.SharedBase()),
        state=STATES[one.state],
        failure=_failure(one.failure),
        status_message=one.status_message,
        serving=_adapter(one.serving, in_a_list),
        candidate=None if one.candidate is None else _adapter(one.candidate, in_a_list),
        has_hub_token=one.wanted.hub_token is not None,
        use_base_template=one.wanted.use_base_template,
        etag=one.etag,
    )
    message.create_time.FromDatetime(one.create_time)
    message.update_time.FromDatetime(one.update_time)
    return message


def create_request(message: deployment_pb2.CreateDeploymentRequest) -> CreateRequest:
    """What a caller wants deployed. Raises NotImplementedYetError."""
    _refuse_what_is_to_come(message)
    return CreateRequest(
        deployment_id=message.deployment_id,
        hub_repo=message.hub_repo,
        revision=message.revision,
        hub_token=message.hub_token,
        base_model=message.base_model,
        idempotency_key=message.idempotency_key,
        accept_base_name=message.accept_base_name,
        use_base_template=message.use_base_template,
    )


def update_request(message: deployment_pb2.UpdateDeploymentRequest) -> UpdateRequest:
    """What a caller wants in place of what it has. Raises NotImplementedYetError."""
    _refuse_what_is_to_come(message)
    return UpdateRequest(
        hub_repo=message.hub_repo if message.HasField("hub_repo") else None,
        revision=message.revision if message.HasField("revision") else None,
        hub_token=message.hub_token if message.HasField("hub_token") else None,
        accept_base_name=message.accept_base_name if message.HasField("accept_base_name") else None,
        use_base_template=message.use_base_template if message.HasField("use_base_template") else None,
        etag=message.etag,
    )


def list_query(message: deployment_pb2.ListDeploymentsRequest) -> ListQuery:
    """Which deployments a caller wants listed. Raises InvalidFieldError."""
    if len(message.states) > len(STATES):
        raise InvalidFieldError("states", f"{len(message.states)} states", f"at most {len(STATES)} states")
    for number in message.states:
        if number not in _STATES_OF:
            raise InvalidFieldError("states", number, "states of a deployment")
    if message.order not in _ORDERS:
        raise InvalidFieldError("order", message.order, f"one of {', '.join(_List.Order.keys())}")
    return ListQuery(
        states=tuple(_STATES_OF[number] for number in message.states),
        search=message.search,
        order=_ORDERS[message.order],
    )


def repo_extras(extras: RepoExtras, *, in_a_list: bool = False) -> deployment_pb2.RepoExtras:
    """What a repo brings; in a list without its template, of which a page would hold a thousand."""
    return deployment_pb2.RepoExtras(
        chat_template="" if in_a_list else extras.chat_template,
        special_tokens={} if in_a_list else extras.special_tokens,
        end_token_ids=extras.end_token_ids,
        has_chat_template=bool(extras.chat_template),
    )


def _refuse_what_is_to_come(
    message: deployment_pb2.CreateDeploymentRequest | deployment_pb2.UpdateDeploymentRequest,
) -> None:
    if message.target.WhichOneof("target") == "merged_model":
        raise NotImplementedYetError("target.merged_model", "a merged model")


def _failure(failure: Failure | None) -> deployment_pb2.Failure | None:
    if failure is None:
        return None
    return deployment_pb2.Failure(reason=failure.reason, message=failure.message, metadata=failure.metadata)


def _adapter(adapter: Adapter, in_a_list: bool) -> deployment_pb2.AdapterVersion:
    version = adapter.version
    if version is None:
        return deployment_pb2.AdapterVersion(hub_repo=adapter.hub_repo, revision=adapter.revision)
    return deployment_pb2.AdapterVersion(
        number=adapter.number,
        hub_repo=adapter.hub_repo,
        revision=adapter.revision,
        commit=version.commit,
        digest=version.digest,
        size_bytes=version.size_bytes,
        rank=version.rank,
        target_modules=version.target_modules,
        extras=repo_extras(version.extras, in_a_list=in_a_list) if version.extras.sha256 else None,
    )
