from loramux.deployment.v1 import deployment_pb2 as _deployment_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BaseModelSource(_message.Message):
    __slots__ = ("local_path", "hub_repo")
    LOCAL_PATH_FIELD_NUMBER: _ClassVar[int]
    HUB_REPO_FIELD_NUMBER: _ClassVar[int]
    local_path: str
    hub_repo: str
    def __init__(self, local_path: _Optional[str] = ..., hub_repo: _Optional[str] = ...) -> None: ...

class AdapterRef(_message.Message):
    __slots__ = ("digest", "hub_repo", "commit", "config_sha256", "weights_sha256", "size_bytes", "deployment_uid")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    HUB_REPO_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    CONFIG_SHA256_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_UID_FIELD_NUMBER: _ClassVar[int]
    digest: str
    hub_repo: str
    commit: str
    config_sha256: str
    weights_sha256: str
    size_bytes: int
    deployment_uid: str
    def __init__(self, digest: _Optional[str] = ..., hub_repo: _Optional[str] = ..., commit: _Optional[str] = ..., config_sha256: _Optional[str] = ..., weights_sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., deployment_uid: _Optional[str] = ...) -> None: ...

class GetBaseModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetBaseModelResponse(_message.Message):
    __slots__ = ("base_model", "source")
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    base_model: _deployment_pb2.BaseModel
    source: BaseModelSource
    def __init__(self, base_model: _Optional[_Union[_deployment_pb2.BaseModel, _Mapping]] = ..., source: _Optional[_Union[BaseModelSource, _Mapping]] = ...) -> None: ...

class RegisterRequest(_message.Message):
    __slots__ = ("registration", "report")
    REGISTRATION_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    registration: WorkerRegistration
    report: WorkerReport
    def __init__(self, registration: _Optional[_Union[WorkerRegistration, _Mapping]] = ..., report: _Optional[_Union[WorkerReport, _Mapping]] = ...) -> None: ...

class WorkerRegistration(_message.Message):
    __slots__ = ("worker_id", "address", "base_model", "base_commit", "max_sequences", "adapter_slots")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_COMMIT_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_SLOTS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    address: str
    base_model: str
    base_commit: str
    max_sequences: int
    adapter_slots: int
    def __init__(self, worker_id: _Optional[str] = ..., address: _Optional[str] = ..., base_model: _Optional[str] = ..., base_commit: _Optional[str] = ..., max_sequences: _Optional[int] = ..., adapter_slots: _Optional[int] = ...) -> None: ...

class WorkerReport(_message.Message):
    __slots__ = ("resident_digests", "running_sequences", "waiting_sequences", "draining")
    RESIDENT_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    WAITING_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    resident_digests: _containers.RepeatedScalarFieldContainer[str]
    running_sequences: int
    waiting_sequences: int
    draining: bool
    def __init__(self, resident_digests: _Optional[_Iterable[str]] = ..., running_sequences: _Optional[int] = ..., waiting_sequences: _Optional[int] = ..., draining: _Optional[bool] = ...) -> None: ...

class RegisterResponse(_message.Message):
    __slots__ = ("report_interval_ms",)
    REPORT_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    report_interval_ms: int
    def __init__(self, report_interval_ms: _Optional[int] = ...) -> None: ...

class WatchRoutesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRoutesResponse(_message.Message):
    __slots__ = ("snapshot", "base_models", "deployments", "removed_deployments", "workers", "removed_workers")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    BASE_MODELS_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_WORKERS_FIELD_NUMBER: _ClassVar[int]
    snapshot: bool
    base_models: _containers.RepeatedCompositeFieldContainer[BaseRoute]
    deployments: _containers.RepeatedCompositeFieldContainer[DeploymentRoute]
    removed_deployments: _containers.RepeatedScalarFieldContainer[str]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerRoute]
    removed_workers: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, snapshot: _Optional[bool] = ..., base_models: _Optional[_Iterable[_Union[BaseRoute, _Mapping]]] = ..., deployments: _Optional[_Iterable[_Union[DeploymentRoute, _Mapping]]] = ..., removed_deployments: _Optional[_Iterable[str]] = ..., workers: _Optional[_Iterable[_Union[WorkerRoute, _Mapping]]] = ..., removed_workers: _Optional[_Iterable[str]] = ...) -> None: ...

class BaseRoute(_message.Message):
    __slots__ = ("base_model",)
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    base_model: _deployment_pb2.BaseModel
    def __init__(self, base_model: _Optional[_Union[_deployment_pb2.BaseModel, _Mapping]] = ...) -> None: ...

class DeploymentRoute(_message.Message):
    __slots__ = ("name", "uid", "account_id", "base_model", "state", "failure", "adapter")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    account_id: str
    base_model: str
    state: _deployment_pb2.State
    failure: _deployment_pb2.Failure
    adapter: AdapterRef
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., account_id: _Optional[str] = ..., base_model: _Optional[str] = ..., state: _Optional[_Union[_deployment_pb2.State, str]] = ..., failure: _Optional[_Union[_deployment_pb2.Failure, _Mapping]] = ..., adapter: _Optional[_Union[AdapterRef, _Mapping]] = ...) -> None: ...

class WorkerRoute(_message.Message):
    __slots__ = ("registration", "report")
    REGISTRATION_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    registration: WorkerRegistration
    report: WorkerReport
    def __init__(self, registration: _Optional[_Union[WorkerRegistration, _Mapping]] = ..., report: _Optional[_Union[WorkerReport, _Mapping]] = ...) -> None: ...

class GetTokenizerRequest(_message.Message):
    __slots__ = ("base_model",)
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    base_model: str
    def __init__(self, base_model: _Optional[str] = ...) -> None: ...

class GetTokenizerResponse(_message.Message):
    __slots__ = ("commit", "chat_template", "special_tokens", "tokenizer_json")
    class SpecialTokensEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_JSON_FIELD_NUMBER: _ClassVar[int]
    commit: str
    chat_template: str
    special_tokens: _containers.ScalarMap[str, str]
    tokenizer_json: bytes
    def __init__(self, commit: _Optional[str] = ..., chat_template: _Optional[str] = ..., special_tokens: _Optional[_Mapping[str, str]] = ..., tokenizer_json: _Optional[bytes] = ...) -> None: ...

class GetHubTokenRequest(_message.Message):
    __slots__ = ("deployment_uid",)
    DEPLOYMENT_UID_FIELD_NUMBER: _ClassVar[int]
    deployment_uid: str
    def __init__(self, deployment_uid: _Optional[str] = ...) -> None: ...

class GetHubTokenResponse(_message.Message):
    __slots__ = ("hub_token",)
    HUB_TOKEN_FIELD_NUMBER: _ClassVar[int]
    hub_token: str
    def __init__(self, hub_token: _Optional[str] = ...) -> None: ...
