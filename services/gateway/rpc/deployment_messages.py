"""Messages of deployment.proto, as clients send and get them, to the gateway's values and back."""

from loramux.deployment.v1 import deployment_pb2
from services.common.errors import InvalidFieldError
from services.gateway.deployments.deployment_values import (
    BaseModelView,
    DeploymentChange,
    DeploymentQuery,
    DeploymentView,
    FailureView,
    NewDeployment,
    PageRequest,
    RepoExtrasView,
    VersionView,
)
from services.gateway.rpc.inference_messages import token_price
from services.gateway.upstream.registry_messages import target, target_message

_MAX_STATES = 32


def new_deployment(message: deployment_pb2.CreateDeploymentRequest) -> NewDeployment:
    """What a caller wants deployed."""
    return NewDeployment(
        deployment_id=message.deployment_id,
        hub_repo=message.hub_repo,
        revision=message.revision,
        hub_token=message.hub_token,
        base_model=message.base_model,
        accept_base_name=message.accept_base_name,
        target=target(message.target),
        use_base_template=message.use_base_template,
        idempotency_key=message.idempotency_key,
    )


def change(message: deployment_pb2.UpdateDeploymentRequest) -> DeploymentChange:
    """What a caller wants changed; unset stays unset."""
    return DeploymentChange(
        name=message.name,
        hub_repo=message.hub_repo if message.HasField("hub_repo") else None,
        revision=message.revision if message.HasField("revision") else None,
        hub_token=message.hub_token if message.HasField("hub_token") else None,
        accept_base_name=message.accept_base_name if message.HasField("accept_base_name") else None,
        target=target(message.target),
        use_base_template=message.use_base_template if message.HasField("use_base_template") else None,
        etag=message.etag,
    )


def query(message: deployment_pb2.ListDeploymentsRequest) -> DeploymentQuery:
    """Which deployments. Raises InvalidFieldError."""
    if len(message.states) > _MAX_STATES:
        raise InvalidFieldError("states", f"{len(message.states)} states", f"at most {_MAX_STATES} states")
    return DeploymentQuery(tuple(message.states), message.search, message.order)


def page_request(
    message: deployment_pb2.ListBaseModelsRequest
    | deployment_pb2.ListDeploymentsRequest
    | deployment_pb2.ListDeploymentVersionsRequest,
) -> PageRequest:
    """Which part of a list."""
    return PageRequest(message.page_size, message.page_token)


def base_model_message(view: BaseModelView) -> deployment_pb2.BaseModel:
    """A base model."""
    return deployment_pb2.BaseModel(
        name=view.name,
        adapter_base_names=view.adapter_base_names,
        commit=view.commit,
        context_length=view.context_length,
        max_lora_rank=view.max_lora_rank,
        target_modules=view.target_modules,
        price=token_price(view.price),
        lora_price=token_price(view.lora_price),
        vocabulary_size=view.vocabulary_size,
    )


def deployment_message(view: DeploymentView) -> deployment_pb2.Deployment:
    """A deployment, for its owner."""
    message = deployment_pb2.Deployment(
        name=view.name,
        uid=view.uid,
        base_model=view.base_model,
        target=target_message(view.target),
        failure=None if view.failure is None else _failure_message(view.failure),
        status_message=view.status_message,
        serving=None if view.serving is None else version_message(view.serving),
        candidate=None if view.candidate is None else version_message(view.candidate),
        has_hub_token=view.has_hub_token,
        use_base_template=view.use_base_template,
        create_time=view.create_time,
        update_time=view.update_time,
        etag=view.etag,
    )
    message.state = view.state  # type: ignore[assignment]  # the stubs want members of the enum
    return message


def version_message(view: VersionView) -> deployment_pb2.AdapterVersion:
    """A version of a deployment."""
    return deployment_pb2.AdapterVersion(
        number=view.number,
        hub_repo=view.hub_repo,
        revision=view.revision,
        commit=view.commit,
        digest=view.digest,
        size_bytes=view.size_bytes,
        rank=view.rank,
        target_modules=view.target_modules,
        extras=None if view.extras is None else _extras_message(view.extras),
    )


def _extras_message(view: RepoExtrasView) -> deployment_pb2.RepoExtras:
    return deployment_pb2.RepoExtras(
        has_chat_template=view.has_chat_template,
        chat_template=view.chat_template,
        special_tokens=view.special_tokens,
        end_token_ids=view.end_token_ids,
    )


def _failure_message(view: FailureView) -> deployment_pb2.Failure:
    return deployment_pb2.Failure(reason=view.reason, message=view.message, metadata=view.metadata)
