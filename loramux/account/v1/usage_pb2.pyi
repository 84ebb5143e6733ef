import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from loramux.inference.v1 import inference_pb2 as _inference_pb2
from loramux.type.v1 import token_price_pb2 as _token_price_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UsageRecord(_message.Message):
    __slots__ = ("request_id", "client_request_id", "account", "key", "start_time", "first_token_time", "end_time", "model", "base_model", "deployment_uid", "adapter_digest", "worker_id", "prompt_tokens", "cached_tokens", "completion_tokens", "price", "total_pico_usd", "outcome", "finish_reasons")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[UsageRecord.Outcome]
        OUTCOME_COMPLETED: _ClassVar[UsageRecord.Outcome]
        OUTCOME_CANCELLED: _ClassVar[UsageRecord.Outcome]
        OUTCOME_FAILED: _ClassVar[UsageRecord.Outcome]
    OUTCOME_UNSPECIFIED: UsageRecord.Outcome
    OUTCOME_COMPLETED: UsageRecord.Outcome
    OUTCOME_CANCELLED: UsageRecord.Outcome
    OUTCOME_FAILED: UsageRecord.Outcome
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_UID_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_PICO_USD_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASONS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    client_request_id: str
    account: str
    key: str
    start_time: _timestamp_pb2.Timestamp
    first_token_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    model: str
    base_model: str
    deployment_uid: str
    adapter_digest: str
    worker_id: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    price: _token_price_pb2.TokenPrice
    total_pico_usd: int
    outcome: UsageRecord.Outcome
    finish_reasons: _containers.RepeatedScalarFieldContainer[_inference_pb2.FinishReason]
    def __init__(self, request_id: _Optional[str] = ..., client_request_id: _Optional[str] = ..., account: _Optional[str] = ..., key: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., first_token_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., model: _Optional[str] = ..., base_model: _Optional[str] = ..., deployment_uid: _Optional[str] = ..., adapter_digest: _Optional[str] = ..., worker_id: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., price: _Optional[_Union[_token_price_pb2.TokenPrice, _Mapping]] = ..., total_pico_usd: _Optional[int] = ..., outcome: _Optional[_Union[UsageRecord.Outcome, str]] = ..., finish_reasons: _Optional[_Iterable[_Union[_inference_pb2.FinishReason, str]]] = ...) -> None: ...

class UsageFilter(_message.Message):
    __slots__ = ("model", "base_model", "key", "start_time", "end_time")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    model: str
    base_model: str
    key: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, model: _Optional[str] = ..., base_model: _Optional[str] = ..., key: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class UsageSum(_message.Message):
    __slots__ = ("start_time", "model", "key", "base_model", "outcome", "requests", "prompt_tokens", "cached_tokens", "completion_tokens", "total_pico_usd")
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_PICO_USD_FIELD_NUMBER: _ClassVar[int]
    start_time: _timestamp_pb2.Timestamp
    model: str
    key: str
    base_model: str
    outcome: UsageRecord.Outcome
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    total_pico_usd: int
    def __init__(self, start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., model: _Optional[str] = ..., key: _Optional[str] = ..., base_model: _Optional[str] = ..., outcome: _Optional[_Union[UsageRecord.Outcome, str]] = ..., requests: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., total_pico_usd: _Optional[int] = ...) -> None: ...

class BillLine(_message.Message):
    __slots__ = ("model", "base_model", "kind", "price", "requests", "prompt_tokens", "cached_tokens", "completion_tokens", "total_pico_usd")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[BillLine.Kind]
        KIND_BASE: _ClassVar[BillLine.Kind]
        KIND_LORA: _ClassVar[BillLine.Kind]
        KIND_MERGED: _ClassVar[BillLine.Kind]
    KIND_UNSPECIFIED: BillLine.Kind
    KIND_BASE: BillLine.Kind
    KIND_LORA: BillLine.Kind
    KIND_MERGED: BillLine.Kind
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_PICO_USD_FIELD_NUMBER: _ClassVar[int]
    model: str
    base_model: str
    kind: BillLine.Kind
    price: _token_price_pb2.TokenPrice
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    total_pico_usd: int
    def __init__(self, model: _Optional[str] = ..., base_model: _Optional[str] = ..., kind: _Optional[_Union[BillLine.Kind, str]] = ..., price: _Optional[_Union[_token_price_pb2.TokenPrice, _Mapping]] = ..., requests: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., total_pico_usd: _Optional[int] = ...) -> None: ...

class Correction(_message.Message):
    __slots__ = ("name", "create_time", "request_id", "model", "description", "amount_pico_usd")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_PICO_USD_FIELD_NUMBER: _ClassVar[int]
    name: str
    create_time: _timestamp_pb2.Timestamp
    request_id: str
    model: str
    description: str
    amount_pico_usd: int
    def __init__(self, name: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., request_id: _Optional[str] = ..., model: _Optional[str] = ..., description: _Optional[str] = ..., amount_pico_usd: _Optional[int] = ...) -> None: ...
