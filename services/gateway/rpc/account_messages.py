"""Messages of account.proto to the gateway's values and back."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from loramux.account.v1 import account_pb2, key_pb2, usage_pb2
from services.common import errors
from services.gateway.accounts.account_desk import AccountView
from services.gateway.accounts.accounts import AccountLimits
from services.gateway.accounts.keys import Key
from services.gateway.billing.rules import Outcome
from services.gateway.billing.usage import BillLine, UsageFilter, UsageRecord
from services.gateway.rpc.inference_messages import token_price

_OUTCOMES = {
    Outcome.COMPLETED: usage_pb2.UsageRecord.OUTCOME_COMPLETED,
    Outcome.CANCELLED: usage_pb2.UsageRecord.OUTCOME_CANCELLED,
    Outcome.FAILED: usage_pb2.UsageRecord.OUTCOME_FAILED,
}


def limits(message: account_pb2.Limits) -> AccountLimits:
    """Unset stays unset."""
    return AccountLimits(
        max_in_flight=message.max_in_flight if message.HasField("max_in_flight") else None,
        requests_per_minute=message.requests_per_minute if message.HasField("requests_per_minute") else None,
        tokens_per_minute=message.tokens_per_minute if message.HasField("tokens_per_minute") else None,
    )


def check_key_request(message: account_pb2.CreateKeyRequest) -> None:
    """Refuse, by name, what no key obeys yet: a key that says less than it may do would be worse than none."""
    asked = {
        "scopes": (len(message.scopes) > 0, "a key with fewer scopes"),
        "models": (len(message.models) > 0, "a key for some models"),
        "expire_time": (message.HasField("expire_time"), "a key that expires"),
        "spending_cap": (message.HasField("spending_cap"), "a key with a spending cap"),
        "rate": (message.HasField("rate"), "a key with a rate of its own"),
    }
    for field, (is_asked, what) in asked.items():
        if is_asked:
            raise errors.NotImplementedYetError(field, what)


def usage_filter(message: usage_pb2.UsageFilter) -> UsageFilter:
    """Raises InvalidFieldError."""
    return UsageFilter(message.model, message.base_model, message.key, *span(message, "filter."))


def span(
    message: usage_pb2.UsageFilter | account_pb2.GetBillRequest, path: str
) -> tuple[datetime | None, datetime | None]:
    """The two moments that a message names. Raises InvalidFieldError for what is no moment."""
    start = _moment(message.start_time, f"{path}start_time") if message.HasField("start_time") else None
    end = _moment(message.end_time, f"{path}end_time") if message.HasField("end_time") else None
    return start, end


def account_message(view: AccountView) -> account_pb2.Account:
    """With the limits that the operator has set for it, and those that hold."""
    account, in_force, balance = view.account, view.effective_limits, view.balance
    return account_pb2.Account(
        name=account.id,
        state=account_pb2.Account.STATE_ACTIVE,
        create_time=account.create_time,
        limits=account_pb2.Limits(
            max_in_flight=account.limits.max_in_flight,
            requests_per_minute=account.limits.requests_per_minute,
            tokens_per_minute=account.limits.tokens_per_minute,
        ),
        effective_limits=account_pb2.Limits(
            max_in_flight=in_force.max_in_flight,
            requests_per_minute=in_force.requests_per_minute,
            tokens_per_minute=in_force.tokens_per_minute,
        ),
        balance=account_pb2.Balance(
            available_pico_usd=balance.available,
            reserved_pico_usd=balance.reserved,
        ),
    )


def key_message(key: Key) -> key_pb2.Key:
    """What may be shown of a key. Every key may do everything yet."""
    return key_pb2.Key(
        name=key.id,
        account=key.account_id,
        description=key.description,
        prefix=key.prefix,
        scopes=[
            key_pb2.SCOPE_GENERATE,
            key_pb2.SCOPE_DEPLOY,
            key_pb2.SCOPE_READ_DEPLOYMENTS,
            key_pb2.SCOPE_READ_USAGE,
            key_pb2.SCOPE_MANAGE_KEYS,
        ],
        create_time=key.create_time,
        revoke_time=key.revoke_time,
    )


def usage_message(record: UsageRecord) -> usage_pb2.UsageRecord:
    """One request's record."""
    request, ending = record.request, record.ending
    message = usage_pb2.UsageRecord(
        request_id=request.request_id,
        client_request_id=request.client_request_id,
        account=request.account_id,
        key=request.key,
        start_time=request.start_time,
        first_token_time=ending.first_token_time,
        end_time=ending.time,
        model=request.model,
        base_model=request.base_model,
        deployment_uid=request.deployment_uid,
        adapter_digest=request.adapter_digest,
        worker_id=ending.worker_id,
        prompt_tokens=request.prompt_tokens,
        cached_tokens=ending.cached_tokens,
        completion_tokens=ending.completion_tokens,
        price=token_price(request.price),
        total_pico_usd=record.total,
        outcome=_OUTCOMES[ending.outcome],
    )
    # The stubs want members of the enum; the field takes any number.
    message.finish_reasons.extend(ending.finish_reasons)  # type: ignore[arg-type]
    return message


def bill_line(line: BillLine) -> usage_pb2.BillLine:
    """One model at one price."""
    return usage_pb2.BillLine(
        model=line.model,
        base_model=line.base_model,
        kind=usage_pb2.BillLine.KIND_LORA if line.lora else usage_pb2.BillLine.KIND_BASE,
        price=token_price(line.price),
        requests=line.requests,
        prompt_tokens=line.prompt_tokens,
        cached_tokens=line.cached_tokens,
        completion_tokens=line.completion_tokens,
        total_pico_usd=line.total,
    )


def _moment(message: Timestamp, field: str) -> datetime:
    """A timestamp of a request. Raises InvalidFieldError for one that is no moment."""
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        shown = f"{message.seconds} s and {message.nanos} ns"
        raise errors.InvalidFieldError(field, shown, "a moment of the years 1 .. 9999") from None
