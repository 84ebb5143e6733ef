import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Scope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCOPE_UNSPECIFIED: _ClassVar[Scope]
    SCOPE_GENERATE: _ClassVar[Scope]
    SCOPE_DEPLOY: _ClassVar[Scope]
    SCOPE_READ_DEPLOYMENTS: _ClassVar[Scope]
    SCOPE_READ_USAGE: _ClassVar[Scope]
    SCOPE_MANAGE_KEYS: _ClassVar[Scope]
SCOPE_UNSPECIFIED: Scope
SCOPE_GENERATE: Scope
SCOPE_DEPLOY: Scope
SCOPE_READ_DEPLOYMENTS: Scope
SCOPE_READ_USAGE: Scope
SCOPE_MANAGE_KEYS: Scope

class Key(_message.Message):
    __slots__ = ("name", "account", "description", "prefix", "scopes", "models", "create_time", "expire_time", "revoke_time", "spending_cap", "rate")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    REVOKE_TIME_FIELD_NUMBER: _ClassVar[int]
    SPENDING_CAP_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    account: str
    description: str
    prefix: str
    scopes: _containers.RepeatedScalarFieldContainer[Scope]
    models: _containers.RepeatedScalarFieldContainer[str]
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    revoke_time: _timestamp_pb2.Timestamp
    spending_cap: SpendingCap
    rate: KeyRate
    def __init__(self, name: _Optional[str] = ..., account: _Optional[str] = ..., description: _Optional[str] = ..., prefix: _Optional[str] = ..., scopes: _Optional[_Iterable[_Union[Scope, str]]] = ..., models: _Optional[_Iterable[str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revoke_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., spending_cap: _Optional[_Union[SpendingCap, _Mapping]] = ..., rate: _Optional[_Union[KeyRate, _Mapping]] = ...) -> None: ...

class SpendingCap(_message.Message):
    __slots__ = ("amount_pico_usd", "period")
    class Period(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PERIOD_UNSPECIFIED: _ClassVar[SpendingCap.Period]
        PERIOD_DAY: _ClassVar[SpendingCap.Period]
        PERIOD_MONTH: _ClassVar[SpendingCap.Period]
        PERIOD_TOTAL: _ClassVar[SpendingCap.Period]
    PERIOD_UNSPECIFIED: SpendingCap.Period
    PERIOD_DAY: SpendingCap.Period
    PERIOD_MONTH: SpendingCap.Period
    PERIOD_TOTAL: SpendingCap.Period
    AMOUNT_PICO_USD_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    amount_pico_usd: int
    period: SpendingCap.Period
    def __init__(self, amount_pico_usd: _Optional[int] = ..., period: _Optional[_Union[SpendingCap.Period, str]] = ...) -> None: ...

class KeyRate(_message.Message):
    __slots__ = ("requests_per_minute", "tokens_per_minute")
    REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    requests_per_minute: int
    tokens_per_minute: int
    def __init__(self, requests_per_minute: _Optional[int] = ..., tokens_per_minute: _Optional[int] = ...) -> None: ...
