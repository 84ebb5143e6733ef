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
    __slots__ = ("worker_id", "address", "base_model", "base_commit", "max_sequences", "adapter_slots", "capabilities")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_COMMIT_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_SLOTS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    address: str
    base_model: str
    base_commit: str
    max_sequences: int
    adapter_slots: int
    capabilities: Capabilities
    def __init__(self, worker_id: _Optional[str] = ..., address: _Optional[str] = ..., base_model: _Optional[str] = ..., base_commit: _Optional[str] = ..., max_sequences: _Optional[int] = ..., adapter_slots: _Optional[int] = ..., capabilities: _Optional[_Union[Capabilities, _Mapping]] = ...) -> None: ...

class Capabilities(_message.Message):
    __slots__ = ("engine", "mode", "adapter_variants", "max_lora_rank", "target_modules", "context_length", "dtype")
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_VARIANTS_FIELD_NUMBER: _ClassVar[int]
    MAX_LORA_RANK_FIELD_NUMBER: _ClassVar[int]
    TARGET_MODULES_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    engine: str
    mode: str
    adapter_variants: _containers.RepeatedScalarFieldContainer[str]
    max_lora_rank: int
    target_modules: _containers.RepeatedScalarFieldContainer[str]
    context_length: int
    dtype: str
    def __init__(self, engine: _Optional[str] = ..., mode: _Optional[str] = ..., adapter_variants: _Optional[_Iterable[str]] = ..., max_lora_rank: _Optional[int] = ..., target_modules: _Optional[_Iterable[str]] = ..., context_length: _Optional[int] = ..., dtype: _Optional[str] = ...) -> None: ...

class WorkerReport(_message.Message):
    __slots__ = ("resident_digests", "running_sequences", "waiting_sequences", "draining", "memory")
    RESIDENT_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    WAITING_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    resident_digests: _containers.RepeatedScalarFieldContainer[str]
    running_sequences: int
    waiting_sequences: int
    draining: bool
    memory: Memory
    def __init__(self, resident_digests: _Optional[_Iterable[str]] = ..., running_sequences: _Optional[int] = ..., waiting_sequences: _Optional[int] = ..., draining: _Optional[bool] = ..., memory: _Optional[_Union[Memory, _Mapping]] = ...) -> None: ...

class Memory(_message.Message):
    __slots__ = ("kv_blocks", "kv_blocks_held", "adapter_bytes")
    KV_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    KV_BLOCKS_HELD_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_BYTES_FIELD_NUMBER: _ClassVar[int]
    kv_blocks: int
    kv_blocks_held: int
    adapter_bytes: int
    def __init__(self, kv_blocks: _Optional[int] = ..., kv_blocks_held: _Optional[int] = ..., adapter_bytes: _Optional[int] = ...) -> None: ...

class RegisterResponse(_message.Message):
    __slots__ = ("report_interval_ms", "wanted_adapters")
    REPORT_INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    WANTED_ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    report_interval_ms: int
    wanted_adapters: WantedAdapters
    def __init__(self, report_interval_ms: _Optional[int] = ..., wanted_adapters: _Optional[_Union[WantedAdapters, _Mapping]] = ...) -> None: ...

class WantedAdapters(_message.Message):
    __slots__ = ("adapters",)
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedCompositeFieldContainer[AdapterRef]
    def __init__(self, adapters: _Optional[_Iterable[_Union[AdapterRef, _Mapping]]] = ...) -> None: ...

class GetHubTokenRequest(_message.Message):
    __slots__ = ("deployment_uid", "adapter_digest")
    DEPLOYMENT_UID_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    deployment_uid: str
    adapter_digest: str
    def __init__(self, deployment_uid: _Optional[str] = ..., adapter_digest: _Optional[str] = ...) -> None: ...

class GetHubTokenResponse(_message.Message):
    __slots__ = ("hub_token",)
    HUB_TOKEN_FIELD_NUMBER: _ClassVar[int]
    hub_token: str
    def __init__(self, hub_token: _Optional[str] = ...) -> None: ...
