"""Base models and deployments as callers see them, and what they ask about them: values for every edge.

The registry decides what they may say; the gateway passes on numbers that it is too old to know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.gateway.billing.money import TokenPrice


@dataclass(frozen=True)
class BaseModelView:
    """A base model that adapters can be deployed on."""

    name: str
    adapter_base_names: Sequence[str]
    """What an adapter's config may call it."""
    commit: str
    context_length: int
    max_lora_rank: int
    target_modules: Sequence[str]
    price: TokenPrice
    lora_price: TokenPrice
    vocabulary_size: int


@dataclass(frozen=True)
class SharedBase:
    """Served beside others on one copy of the base."""


@dataclass(frozen=True)
class MergedModel:
    """Folded into a copy of the base that serves nothing else; None takes the default."""

    min_instances: int | None = None
    max_instances: int | None = None


Target = SharedBase | MergedModel


@dataclass(frozen=True)
class RepoExtrasView:
    """What an adapter's repo brings beside it, and is honoured."""

    has_chat_template: bool
    chat_template: str
    """Empty in lists."""
    special_tokens: Mapping[str, str]
    end_token_ids: Sequence[int]


@dataclass(frozen=True)
class VersionView:
    """An adapter's version; commit and digest are empty until it has been admitted."""

    number: int
    hub_repo: str
    revision: str
    commit: str = ""
    digest: str = ""
    size_bytes: int = 0
    rank: int = 0
    target_modules: Sequence[str] = ()
    extras: RepoExtrasView | None = None


@dataclass(frozen=True)
class FailureView:
    """Why a deployment, or its last update, failed."""

    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DeploymentView:
    """A deployment as its owner sees it."""

    name: str
    uid: str
    base_model: str
    target: Target | None
    """None where this gateway is too old to know it."""
    state: int
    """Numbered as Deployment.State in deployment.proto."""
    failure: FailureView | None
    status_message: str
    serving: VersionView | None
    candidate: VersionView | None
    has_hub_token: bool
    use_base_template: bool
    create_time: datetime
    update_time: datetime
    etag: str


@dataclass(frozen=True)
class NewDeployment:
    """What a caller wants deployed."""

    deployment_id: str
    hub_repo: str
    revision: str = ""
    hub_token: str = field(default="", repr=False)
    base_model: str = ""
    accept_base_name: bool = False
    target: Target | None = None
    use_base_template: bool = False
    idempotency_key: str = ""


@dataclass(frozen=True)
class DeploymentChange:
    """What a caller wants changed; None leaves it as it is."""

    name: str
    hub_repo: str | None = None
    revision: str | None = None
    hub_token: str | None = field(default=None, repr=False)
    accept_base_name: bool | None = None
    target: Target | None = None
    use_base_template: bool | None = None
    etag: str = ""


@dataclass(frozen=True)
class PageRequest:
    """Which part of a list."""

    size: int = 0
    token: str = ""


@dataclass(frozen=True)
class DeploymentQuery:
    """Which deployments, in which order; numbers as in deployment.proto."""

    states: Sequence[int] = ()
    search: str = ""
    order: int = 0
