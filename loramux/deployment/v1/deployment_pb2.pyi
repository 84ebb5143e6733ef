import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from loramux.type.v1 import token_price_pb2 as _token_price_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BaseModel(_message.Message):
    __slots__ = ("name", "adapter_base_names", "commit", "context_length", "max_lora_rank", "target_modules", "price", "lora_price", "vocabulary_size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_BASE_NAMES_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_LORA_RANK_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODULES_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    LORA_PRICE_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    adapter_base_names: _containers.RepeatedScalarFieldContainer[str]
    commit: str
    context_length: int
    max_lora_rank: int
    target_modules: _containers.RepeatedScalarFieldContainer[str]
    price: _token_price_pb2.TokenPrice
    lora_price: _token_price_pb2.TokenPrice
    vocabulary_size: int
    def __init__(self, name: _Optional[str] = ..., adapter_base_names: _Optional[_Iterable[str]] = ..., commit: _Optional[str] = ..., context_length: _Optional[int] = ..., max_lora_rank: _Optional[int] = ..., target_modules: _Optional[_Iterable[str]] = ..., price: _Optional[_Union[_token_price_pb2.TokenPrice, _Mapping]] = ..., lora_price: _Optional[_Union[_token_price_pb2.TokenPrice, _Mapping]] = ..., vocabulary_size: _Optional[int] = ...) -> None: ...

class Deployment(_message.Message):
    __slots__ = ("name", "uid", "base_model", "target", "state", "failure", "status_message", "serving", "candidate", "has_hub_token", "use_base_template", "create_time", "update_time", "etag")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Deployment.State]
        STATE_INITIALIZING: _ClassVar[Deployment.State]
        STATE_DEPLOYING: _ClassVar[Deployment.State]
        STATE_RUNNING: _ClassVar[Deployment.State]
        STATE_FAILED: _ClassVar[Deployment.State]
        STATE_DELETED: _ClassVar[Deployment.State]
    STATE_UNSPECIFIED: Deployment.State
    STATE_INITIALIZING: Deployment.State
    STATE_DEPLOYING: Deployment.State
    STATE_RUNNING: Deployment.State
    STATE_FAILED: Deployment.State
    STATE_DELETED: Deployment.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    STATUS_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    HAS_HUB_TOKEN_FIELD_NUMBER: _ClassVar[int]
    USE_BASE_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    base_model: str
    target: DeploymentTarget
    state: Deployment.State
    failure: Failure
    status_message: str
    serving: AdapterVersion
    candidate: AdapterVersion
    has_hub_token: bool
    use_base_template: bool
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    etag: str
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., base_model: _Optional[str] = ..., target: _Optional[_Union[DeploymentTarget, _Mapping]] = ..., state: _Optional[_Union[Deployment.State, str]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., status_message: _Optional[str] = ..., serving: _Optional[_Union[AdapterVersion, _Mapping]] = ..., candidate: _Optional[_Union[AdapterVersion, _Mapping]] = ..., has_hub_token: _Optional[bool] = ..., use_base_template: _Optional[bool] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., etag: _Optional[str] = ...) -> None: ...

class DeploymentTarget(_message.Message):
    __slots__ = ("shared_base", "merged_model")
    SHARED_BASE_FIELD_NUMBER: _ClassVar[int]
    MERGED_MODEL_FIELD_NUMBER: _ClassVar[int]
    shared_base: SharedBase
    merged_model: MergedModel
    def __init__(self, shared_base: _Optional[_Union[SharedBase, _Mapping]] = ..., merged_model: _Optional[_Union[MergedModel, _Mapping]] = ...) -> None: ...

class SharedBase(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MergedModel(_message.Message):
    __slots__ = ("min_instances", "max_instances")
    MIN_INSTANCES_FIELD_NUMBER: _ClassVar[int]
    MAX_INSTANCES_FIELD_NUMBER: _ClassVar[int]
    min_instances: int
    max_instances: int
    def __init__(self, min_instances: _Optional[int] = ..., max_instances: _Optional[int] = ...) -> None: ...

class AdapterVersion(_message.Message):
    __slots__ = ("number", "hub_repo", "revision", "commit", "digest", "size_bytes", "rank", "target_modules", "extras")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    HUB_REPO_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODULES_FIELD_NUMBER: _ClassVar[int]
    EXTRAS_FIELD_NUMBER: _ClassVar[int]
    number: int
    hub_repo: str
    revision: str
    commit: str
    digest: str
    size_bytes: int
    rank: int
    target_modules: _containers.RepeatedScalarFieldContainer[str]
    extras: RepoExtras
    def __init__(self, number: _Optional[int] = ..., hub_repo: _Optional[str] = ..., revision: _Optional[str] = ..., commit: _Optional[str] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., rank: _Optional[int] = ..., target_modules: _Optional[_Iterable[str]] = ..., extras: _Optional[_Union[RepoExtras, _Mapping]] = ...) -> None: ...

class RepoExtras(_message.Message):
    __slots__ = ("chat_template", "end_token_ids", "special_tokens", "has_chat_template")
    class SpecialTokensEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    END_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    HAS_CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    chat_template: str
    end_token_ids: _containers.RepeatedScalarFieldContainer[int]
    special_tokens: _containers.ScalarMap[str, str]
    has_chat_template: bool
    def __init__(self, chat_template: _Optional[str] = ..., end_token_ids: _Optional[_Iterable[int]] = ..., special_tokens: _Optional[_Mapping[str, str]] = ..., has_chat_template: _Optional[bool] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("reason", "message", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ListBaseModelsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListBaseModelsResponse(_message.Message):
    __slots__ = ("base_models", "next_page_token")
    BASE_MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    base_models: _containers.RepeatedCompositeFieldContainer[BaseModel]
    next_page_token: str
    def __init__(self, base_models: _Optional[_Iterable[_Union[BaseModel, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CreateDeploymentRequest(_message.Message):
    __slots__ = ("deployment_id", "hub_repo", "revision", "hub_token", "base_model", "accept_base_name", "target", "use_base_template", "idempotency_key")
    DEPLOYMENT_ID_FIELD_NUMBER: _ClassVar[int]
    HUB_REPO_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    HUB_TOKEN_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_BASE_NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    USE_BASE_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    deployment_id: str
    hub_repo: str
    revision: str
    hub_token: str
    base_model: str
    accept_base_name: bool
    target: DeploymentTarget
    use_base_template: bool
    idempotency_key: str
    def __init__(self, deployment_id: _Optional[str] = ..., hub_repo: _Optional[str] = ..., revision: _Optional[str] = ..., hub_token: _Optional[str] = ..., base_model: _Optional[str] = ..., accept_base_name: _Optional[bool] = ..., target: _Optional[_Union[DeploymentTarget, _Mapping]] = ..., use_base_template: _Optional[bool] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class CreateDeploymentResponse(_message.Message):
    __slots__ = ("deployment",)
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    deployment: Deployment
    def __init__(self, deployment: _Optional[_Union[Deployment, _Mapping]] = ...) -> None: ...

class GetDeploymentRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetDeploymentResponse(_message.Message):
    __slots__ = ("deployment",)
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    deployment: Deployment
    def __init__(self, deployment: _Optional[_Union[Deployment, _Mapping]] = ...) -> None: ...

class ListDeploymentsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "states", "search", "order")
    class Order(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ORDER_UNSPECIFIED: _ClassVar[ListDeploymentsRequest.Order]
        ORDER_CREATE_TIME: _ClassVar[ListDeploymentsRequest.Order]
        ORDER_CREATE_TIME_DESCENDING: _ClassVar[ListDeploymentsRequest.Order]
        ORDER_NAME: _ClassVar[ListDeploymentsRequest.Order]
    ORDER_UNSPECIFIED: ListDeploymentsRequest.Order
    ORDER_CREATE_TIME: ListDeploymentsRequest.Order
    ORDER_CREATE_TIME_DESCENDING: ListDeploymentsRequest.Order
    ORDER_NAME: ListDeploymentsRequest.Order
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    states: _containers.RepeatedScalarFieldContainer[Deployment.State]
    search: str
    order: ListDeploymentsRequest.Order
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., states: _Optional[_Iterable[_Union[Deployment.State, str]]] = ..., search: _Optional[str] = ..., order: _Optional[_Union[ListDeploymentsRequest.Order, str]] = ...) -> None: ...

class ListDeploymentsResponse(_message.Message):
    __slots__ = ("deployments", "next_page_token")
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    deployments: _containers.RepeatedCompositeFieldContainer[Deployment]
    next_page_token: str
    def __init__(self, deployments: _Optional[_Iterable[_Union[Deployment, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateDeploymentRequest(_message.Message):
    __slots__ = ("name", "hub_repo", "revision", "hub_token", "accept_base_name", "target", "use_base_template", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    HUB_REPO_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    HUB_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_BASE_NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    USE_BASE_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    hub_repo: str
    revision: str
    hub_token: str
    accept_base_name: bool
    target: DeploymentTarget
    use_base_template: bool
    etag: str
    def __init__(self, name: _Optional[str] = ..., hub_repo: _Optional[str] = ..., revision: _Optional[str] = ..., hub_token: _Optional[str] = ..., accept_base_name: _Optional[bool] = ..., target: _Optional[_Union[DeploymentTarget, _Mapping]] = ..., use_base_template: _Optional[bool] = ..., etag: _Optional[str] = ...) -> None: ...

class UpdateDeploymentResponse(_message.Message):
    __slots__ = ("deployment",)
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    deployment: Deployment
    def __init__(self, deployment: _Optional[_Union[Deployment, _Mapping]] = ...) -> None: ...

class DeleteDeploymentRequest(_message.Message):
    __slots__ = ("name", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    etag: str
    def __init__(self, name: _Optional[str] = ..., etag: _Optional[str] = ...) -> None: ...

class DeleteDeploymentResponse(_message.Message):
    __slots__ = ("deployment",)
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    deployment: Deployment
    def __init__(self, deployment: _Optional[_Union[Deployment, _Mapping]] = ...) -> None: ...

class WatchDeploymentRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class WatchDeploymentResponse(_message.Message):
    __slots__ = ("deployment",)
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    deployment: Deployment
    def __init__(self, deployment: _Optional[_Union[Deployment, _Mapping]] = ...) -> None: ...

class ListDeploymentVersionsRequest(_message.Message):
    __slots__ = ("name", "page_size", "page_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    page_size: int
    page_token: str
    def __init__(self, name: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDeploymentVersionsResponse(_message.Message):
    __slots__ = ("versions", "next_page_token")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[AdapterVersion]
    next_page_token: str
    def __init__(self, versions: _Optional[_Iterable[_Union[AdapterVersion, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RollBackDeploymentRequest(_message.Message):
    __slots__ = ("name", "version", "etag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    etag: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., etag: _Optional[str] = ...) -> None: ...

class RollBackDeploymentResponse(_message.Message):
    __slots__ = ("deployment",)
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    deployment: Deployment
    def __init__(self, deployment: _Optional[_Union[Deployment, _Mapping]] = ...) -> None: ...
