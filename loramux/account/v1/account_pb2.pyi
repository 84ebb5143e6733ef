import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from loramux.account.v1 import key_pb2 as _key_pb2
from loramux.account.v1 import usage_pb2 as _usage_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Account(_message.Message):
    __slots__ = ("name", "state", "create_time", "limits", "effective_limits", "balance")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Account.State]
        STATE_ACTIVE: _ClassVar[Account.State]
        STATE_SUSPENDED: _ClassVar[Account.State]
    STATE_UNSPECIFIED: Account.State
    STATE_ACTIVE: Account.State
    STATE_SUSPENDED: Account.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_LIMITS_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: Account.State
    create_time: _timestamp_pb2.Timestamp
    limits: Limits
    effective_limits: Limits
    balance: Balance
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[Account.State, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., effective_limits: _Optional[_Union[Limits, _Mapping]] = ..., balance: _Optional[_Union[Balance, _Mapping]] = ...) -> None: ...

class Balance(_message.Message):
    __slots__ = ("available_pico_usd", "reserved_pico_usd")
    AVAILABLE_PICO_USD_FIELD_NUMBER: _ClassVar[int]
    RESERVED_PICO_USD_FIELD_NUMBER: _ClassVar[int]
    available_pico_usd: int
    reserved_pico_usd: int
    def __init__(self, available_pico_usd: _Optional[int] = ..., reserved_pico_usd: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_in_flight", "requests_per_minute", "tokens_per_minute")
    MAX_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_MINUTE_FIELD_NUMBER: _ClassVar[int]
    max_in_flight: int
    requests_per_minute: int
    tokens_per_minute: int
    def __init__(self, max_in_flight: _Optional[int] = ..., requests_per_minute: _Optional[int] = ..., tokens_per_minute: _Optional[int] = ...) -> None: ...

class CreateAccountRequest(_message.Message):
    __slots__ = ("account_id", "limits", "credit_pico_usd", "idempotency_key")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CREDIT_PICO_USD_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    limits: Limits
    credit_pico_usd: int
    idempotency_key: str
    def __init__(self, account_id: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., credit_pico_usd: _Optional[int] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class CreateAccountResponse(_message.Message):
    __slots__ = ("account",)
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    account: Account
    def __init__(self, account: _Optional[_Union[Account, _Mapping]] = ...) -> None: ...

class GetAccountRequest(_message.Message):
    __slots__ = ("account",)
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    account: str
    def __init__(self, account: _Optional[str] = ...) -> None: ...

class GetAccountResponse(_message.Message):
    __slots__ = ("account",)
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    account: Account
    def __init__(self, account: _Optional[_Union[Account, _Mapping]] = ...) -> None: ...

class ListAccountsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "prefix")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    prefix: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., prefix: _Optional[str] = ...) -> None: ...

class ListAccountsResponse(_message.Message):
    __slots__ = ("accounts", "next_page_token")
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    accounts: _containers.RepeatedCompositeFieldContainer[Account]
    next_page_token: str
    def __init__(self, accounts: _Optional[_Iterable[_Union[Account, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateAccountRequest(_message.Message):
    __slots__ = ("account", "limits", "state")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    account: str
    limits: Limits
    state: Account.State
    def __init__(self, account: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., state: _Optional[_Union[Account.State, str]] = ...) -> None: ...

class UpdateAccountResponse(_message.Message):
    __slots__ = ("account",)
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    account: Account
    def __init__(self, account: _Optional[_Union[Account, _Mapping]] = ...) -> None: ...

class GrantCreditRequest(_message.Message):
    __slots__ = ("account", "amount_pico_usd", "idempotency_key")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_PICO_USD_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    account: str
    amount_pico_usd: int
    idempotency_key: str
    def __init__(self, account: _Optional[str] = ..., amount_pico_usd: _Optional[int] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class GrantCreditResponse(_message.Message):
    __slots__ = ("account",)
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    account: Account
    def __init__(self, account: _Optional[_Union[Account, _Mapping]] = ...) -> None: ...

class RefundRequestRequest(_message.Message):
    __slots__ = ("account", "request_id", "amount_pico_usd", "description", "idempotency_key")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_PICO_USD_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    account: str
    request_id: str
    amount_pico_usd: int
    description: str
    idempotency_key: str
    def __init__(self, account: _Optional[str] = ..., request_id: _Optional[str] = ..., amount_pico_usd: _Optional[int] = ..., description: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class RefundRequestResponse(_message.Message):
    __slots__ = ("correction", "account")
    CORRECTION_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    correction: _usage_pb2.Correction
    account: Account
    def __init__(self, correction: _Optional[_Union[_usage_pb2.Correction, _Mapping]] = ..., account: _Optional[_Union[Account, _Mapping]] = ...) -> None: ...

class CreateKeyRequest(_message.Message):
    __slots__ = ("account", "description", "scopes", "models", "expire_time", "spending_cap", "rate", "idempotency_key")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    SPENDING_CAP_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    account: str
    description: str
    scopes: _containers.RepeatedScalarFieldContainer[_key_pb2.Scope]
    models: _containers.RepeatedScalarFieldContainer[str]
    expire_time: _timestamp_pb2.Timestamp
    spending_cap: _key_pb2.SpendingCap
    rate: _key_pb2.KeyRate
    idempotency_key: str
    def __init__(self, account: _Optional[str] = ..., description: _Optional[str] = ..., scopes: _Optional[_Iterable[_Union[_key_pb2.Scope, str]]] = ..., models: _Optional[_Iterable[str]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., spending_cap: _Optional[_Union[_key_pb2.SpendingCap, _Mapping]] = ..., rate: _Optional[_Union[_key_pb2.KeyRate, _Mapping]] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class CreateKeyResponse(_message.Message):
    __slots__ = ("key", "secret")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    key: _key_pb2.Key
    secret: str
    def __init__(self, key: _Optional[_Union[_key_pb2.Key, _Mapping]] = ..., secret: _Optional[str] = ...) -> None: ...

class ListKeysRequest(_message.Message):
    __slots__ = ("account", "page_size", "page_token")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    account: str
    page_size: int
    page_token: str
    def __init__(self, account: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListKeysResponse(_message.Message):
    __slots__ = ("keys", "next_page_token")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[_key_pb2.Key]
    next_page_token: str
    def __init__(self, keys: _Optional[_Iterable[_Union[_key_pb2.Key, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RevokeKeyRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RevokeKeyResponse(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: _key_pb2.Key
    def __init__(self, key: _Optional[_Union[_key_pb2.Key, _Mapping]] = ...) -> None: ...

class ListUsageRequest(_message.Message):
    __slots__ = ("account", "filter", "page_size", "page_token")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    account: str
    filter: _usage_pb2.UsageFilter
    page_size: int
    page_token: str
    def __init__(self, account: _Optional[str] = ..., filter: _Optional[_Union[_usage_pb2.UsageFilter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListUsageResponse(_message.Message):
    __slots__ = ("records", "next_page_token")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[_usage_pb2.UsageRecord]
    next_page_token: str
    def __init__(self, records: _Optional[_Iterable[_Union[_usage_pb2.UsageRecord, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class QueryUsageRequest(_message.Message):
    __slots__ = ("account", "filter", "group_by", "interval", "page_size", "page_token")
    class GroupBy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        GROUP_BY_UNSPECIFIED: _ClassVar[QueryUsageRequest.GroupBy]
        GROUP_BY_MODEL: _ClassVar[QueryUsageRequest.GroupBy]
        GROUP_BY_KEY: _ClassVar[QueryUsageRequest.GroupBy]
        GROUP_BY_BASE_MODEL: _ClassVar[QueryUsageRequest.GroupBy]
        GROUP_BY_OUTCOME: _ClassVar[QueryUsageRequest.GroupBy]
    GROUP_BY_UNSPECIFIED: QueryUsageRequest.GroupBy
    GROUP_BY_MODEL: QueryUsageRequest.GroupBy
    GROUP_BY_KEY: QueryUsageRequest.GroupBy
    GROUP_BY_BASE_MODEL: QueryUsageRequest.GroupBy
    GROUP_BY_OUTCOME: QueryUsageRequest.GroupBy
    class Interval(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        INTERVAL_UNSPECIFIED: _ClassVar[QueryUsageRequest.Interval]
        INTERVAL_HOUR: _ClassVar[QueryUsageRequest.Interval]
        INTERVAL_DAY: _ClassVar[QueryUsageRequest.Interval]
        INTERVAL_MONTH: _ClassVar[QueryUsageRequest.Interval]
    INTERVAL_UNSPECIFIED: QueryUsageRequest.Interval
    INTERVAL_HOUR: QueryUsageRequest.Interval
    INTERVAL_DAY: QueryUsageRequest.Interval
    INTERVAL_MONTH: QueryUsageRequest.Interval
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    GROUP_BY_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    account: str
    filter: _usage_pb2.UsageFilter
    group_by: _containers.RepeatedScalarFieldContainer[QueryUsageRequest.GroupBy]
    interval: QueryUsageRequest.Interval
    page_size: int
    page_token: str
    def __init__(self, account: _Optional[str] = ..., filter: _Optional[_Union[_usage_pb2.UsageFilter, _Mapping]] = ..., group_by: _Optional[_Iterable[_Union[QueryUsageRequest.GroupBy, str]]] = ..., interval: _Optional[_Union[QueryUsageRequest.Interval, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class QueryUsageResponse(_message.Message):
    __slots__ = ("sums", "next_page_token")
    SUMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    sums: _containers.RepeatedCompositeFieldContainer[_usage_pb2.UsageSum]
    next_page_token: str
    def __init__(self, sums: _Optional[_Iterable[_Union[_usage_pb2.UsageSum, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetBillRequest(_message.Message):
    __slots__ = ("account", "start_time", "end_time")
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    account: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, account: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GetBillResponse(_message.Message):
    __slots__ = ("lines", "corrections", "total_pico_usd")
    LINES_FIELD_NUMBER: _ClassVar[int]
    CORRECTIONS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_PICO_USD_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[_usage_pb2.BillLine]
    corrections: _containers.RepeatedCompositeFieldContainer[_usage_pb2.Correction]
    total_pico_usd: int
    def __init__(self, lines: _Optional[_Iterable[_Union[_usage_pb2.BillLine, _Mapping]]] = ..., corrections: _Optional[_Iterable[_Union[_usage_pb2.Correction, _Mapping]]] = ..., total_pico_usd: _Optional[int] = ...) -> None: ...
