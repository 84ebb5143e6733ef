"""Deployments to and from the messages that the gateway and the registry exchange."""

from datetime import UTC

from loramux.deployment.v1 import deployment_pb2
from loramux.type.v1 import token_price_pb2
from services.gateway.billing.money import TokenPrice
from services.gateway.deployments.deployment_values import (
    BaseModelView,
    DeploymentChange,
    DeploymentQuery,
    DeploymentView,
    FailureView,
    MergedModel,
    NewDeployment,
    PageRequest,
    RepoExtrasView,
    SharedBase,
    Target,
    VersionView,
)


def create_request(wanted: NewDeployment) -> deployment_pb2.CreateDeploymentRequest:
    """What the registry is asked to deploy."""
    return deployment_pb2.CreateDeploymentRequest(
        deployment_id=wanted.deployment_id,
        hub_repo=wanted.hub_repo,
        revision=wanted.revision,
        hub_token=wanted.hub_token,
        base_model=wanted.base_model,
        accept_base_name=wanted.accept_base_name,
        target=target_message(wanted.target),
        use_base_template=wanted.use_base_template,
        idempotency_key=wanted.idempotency_key,
    )


def update_request(change: DeploymentChange) -> deployment_pb2.UpdateDeploymentRequest:
    """What the registry is asked to change; None stays unset."""
    return deployment_pb2.UpdateDeploymentRequest(
        name=change.name,
        hub_repo=change.hub_repo,
        revision=change.revision,
        hub_token=change.hub_token,
        accept_base_name=change.accept_base_name,
        target=target_message(change.target),
        use_base_template=change.use_base_template,
        etag=change.etag,
    )


def list_request(query: DeploymentQuery, page: PageRequest) -> deployment_pb2.ListDeploymentsRequest:
    """Which deployments the registry is asked for."""
    message = deployment_pb2.ListDeploymentsRequest(
        page_size=page.size, page_token=page.token, search=query.search
    )
    # The stubs want members of the enums; the fields take any number.
    message.states.extend(query.states)  # type: ignore[arg-type]
    message.order = query.order  # type: ignore[assignment]
    return message


def target_message(target: Target | None) -> deployment_pb2.DeploymentTarget | None:
    """How an adapter is served; None stays unset."""
    match target:
        case None:
            return None
        case SharedBase():
            return deployment_pb2.DeploymentTarget(shared_base=deployment_pb2.SharedBase())
        case MergedModel(least, most):
            merged = deployment_pb2.MergedModel(min_instances=least, max_instances=most)
            return deployment_pb2.DeploymentTarget(merged_model=merged)


def target(message: deployment_pb2.DeploymentTarget) -> Target | None:
    """How an adapter is served; None for what is unset or unknown here."""
    match message.WhichOneof("target"):
        case "shared_base":
            return SharedBase()
        case "merged_model":
            merged = message.merged_model
            return MergedModel(
                merged.min_instances if merged.HasField("min_instances") else None,
                merged.max_instances if merged.HasField("max_instances") else None,
            )
        case _:
            return None


def base_model(message: deployment_pb2.BaseModel) -> BaseModelView:
    """A base model of the registry's list."""
    return BaseModelView(
        name=message.name,
        adapter_base_names=tuple(message.adapter_base_names),
        commit=message.commit,
        context_length=message.context_length,
        max_lora_rank=message.max_lora_rank,
        target_modules=tuple(message.target_modules),
        price=_price(message.price),
        lora_price=_price(message.lora_price),
        vocabulary_size=message.vocabulary_size,
    )


def deployment(message: deployment_pb2.Deployment) -> DeploymentView:
    """A deployment as the registry shows it to its owner."""
    return DeploymentView(
        name=message.name,
        uid=message.uid,
        base_model=message.base_model,
        target=target(message.target),
        state=message.state,
        failure=_failure(message.failure) if message.HasField("failure") else None,
        status_message=message.status_message,
        serving=version(message.serving) if message.HasField("serving") else None,
        candidate=version(message.candidate) if message.HasField("candidate") else None,
        has_hub_token=message.has_hub_token,
        use_base_template=message.use_base_template,
        create_time=message.create_time.ToDatetime(tzinfo=UTC),
        update_time=message.update_time.ToDatetime(tzinfo=UTC),
        etag=message.etag,
    )


def version(message: deployment_pb2.AdapterVersion) -> VersionView:
    """A version of a deployment."""
    return VersionView(
        number=message.number,
        hub_repo=message.hub_repo,
        revision=message.revision,
        commit=message.commit,
        digest=message.digest,
        size_bytes=message.size_bytes,
        rank=message.rank,
        target_modules=tuple(message.target_modules),
        extras=_extras(message.extras) if message.HasField("extras") else None,
    )


def _extras(message: deployment_pb2.RepoExtras) -> RepoExtrasView:
    return RepoExtrasView(
        has_chat_template=message.has_chat_template,
        chat_template=message.chat_template,
        special_tokens=dict(message.special_tokens),
        end_token_ids=tuple(message.end_token_ids),
    )


def _failure(message: deployment_pb2.Failure) -> FailureView:
    return FailureView(message.reason, message.message, dict(message.metadata))


def _price(message: token_price_pb2.TokenPrice) -> TokenPrice:
    return TokenPrice(message.prompt_pico_usd, message.cached_prompt_pico_usd, message.completion_pico_usd)
