from loramux.deployment.v1 import deployment_pb2 as _deployment_pb2
from loramux.fleet.v1 import fleet_pb2 as _fleet_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TableVersion(_message.Message):
    __slots__ = ("table", "number")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    table: str
    number: int
    def __init__(self, table: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class WatchRoutesRequest(_message.Message):
    __slots__ = ("resume_from",)
    RESUME_FROM_FIELD_NUMBER: _ClassVar[int]
    resume_from: TableVersion
    def __init__(self, resume_from: _Optional[_Union[TableVersion, _Mapping]] = ...) -> None: ...

class WatchRoutesResponse(_message.Message):
    __slots__ = ("snapshot", "more", "version", "base_models", "removed_base_models", "deployments", "removed_deployments", "workers", "removed_workers")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BASE_MODELS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_BASE_MODELS_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_DEPLOYMENTS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_WORKERS_FIELD_NUMBER: _ClassVar[int]
    snapshot: bool
    more: bool
    version: TableVersion
    base_models: _containers.RepeatedCompositeFieldContainer[BaseRoute]
    removed_base_models: _containers.RepeatedScalarFieldContainer[str]
    deployments: _containers.RepeatedCompositeFieldContainer[DeploymentRoute]
    removed_deployments: _containers.RepeatedScalarFieldContainer[str]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerRoute]
    removed_workers: _containers.RepeatedCompositeFieldContainer[RemovedWorker]
    def __init__(self, snapshot: _Optional[bool] = ..., more: _Optional[bool] = ..., version: _Optional[_Union[TableVersion, _Mapping]] = ..., base_models: _Optional[_Iterable[_Union[BaseRoute, _Mapping]]] = ..., removed_base_models: _Optional[_Iterable[str]] = ..., deployments: _Optional[_Iterable[_Union[DeploymentRoute, _Mapping]]] = ..., removed_deployments: _Optional[_Iterable[str]] = ..., workers: _Optional[_Iterable[_Union[WorkerRoute, _Mapping]]] = ..., removed_workers: _Optional[_Iterable[_Union[RemovedWorker, _Mapping]]] = ...) -> None: ...

class BaseRoute(_message.Message):
    __slots__ = ("base_model",)
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    base_model: _deployment_pb2.BaseModel
    def __init__(self, base_model: _Optional[_Union[_deployment_pb2.BaseModel, _Mapping]] = ...) -> None: ...

class DeploymentRoute(_message.Message):
    __slots__ = ("name", "uid", "account", "base_model", "state", "failure_reason", "failure_message", "adapter", "extras_sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    FAILURE_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    EXTRAS_SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    account: str
    base_model: str
    state: _deployment_pb2.Deployment.State
    failure_reason: str
    failure_message: str
    adapter: _fleet_pb2.AdapterRef
    extras_sha256: str
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., account: _Optional[str] = ..., base_model: _Optional[str] = ..., state: _Optional[_Union[_deployment_pb2.Deployment.State, str]] = ..., failure_reason: _Optional[str] = ..., failure_message: _Optional[str] = ..., adapter: _Optional[_Union[_fleet_pb2.AdapterRef, _Mapping]] = ..., extras_sha256: _Optional[str] = ...) -> None: ...

class WorkerRoute(_message.Message):
    __slots__ = ("registration", "report")
    REGISTRATION_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    registration: _fleet_pb2.WorkerRegistration
    report: _fleet_pb2.WorkerReport
    def __init__(self, registration: _Optional[_Union[_fleet_pb2.WorkerRegistration, _Mapping]] = ..., report: _Optional[_Union[_fleet_pb2.WorkerReport, _Mapping]] = ...) -> None: ...

class RemovedWorker(_message.Message):
    __slots__ = ("worker_id", "reason")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[RemovedWorker.Reason]
        REASON_DRAINED: _ClassVar[RemovedWorker.Reason]
        REASON_LOST: _ClassVar[RemovedWorker.Reason]
    REASON_UNSPECIFIED: RemovedWorker.Reason
    REASON_DRAINED: RemovedWorker.Reason
    REASON_LOST: RemovedWorker.Reason
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    reason: RemovedWorker.Reason
    def __init__(self, worker_id: _Optional[str] = ..., reason: _Optional[_Union[RemovedWorker.Reason, str]] = ...) -> None: ...

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

class GetRepoExtrasRequest(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    def __init__(self, sha256: _Optional[str] = ...) -> None: ...

class GetRepoExtrasResponse(_message.Message):
    __slots__ = ("extras",)
    EXTRAS_FIELD_NUMBER: _ClassVar[int]
    extras: _deployment_pb2.RepoExtras
    def __init__(self, extras: _Optional[_Union[_deployment_pb2.RepoExtras, _Mapping]] = ...) -> None: ...
