"""Messages of account.proto to the gateway's values and back."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from loramux.account.v1 import account_pb2
from services.common import errors
from services.gateway.accounts.accounts import Account, AccountLimits
from services.gateway.accounts.keys import Key
from services.gateway.billing.ledger import Balance
from services.gateway.billing.rules import Outcome
from services.gateway.billing.usage import BillLine, UsageRecord
from services.gateway.limits.limiter import Limits

_OUTCOMES = {
    Outcome.COMPLETED: account_pb2.OUTCOME_COMPLETED,
    Outcome.CANCELLED: account_pb2.OUTCOME_CANCELLED,
    Outcome.FAILED: account_pb2.OUTCOME_FAILED,
}


def limits(message: account_pb2.Limits) -> AccountLimits:
    """Unset stays unset."""
    return AccountLimits(
        max_in_flight=message.max_in_flight if message.HasField("max_in_flight") else None,
        requests_per_minute=message.requests_per_minute if message.HasField("requests_per_minute") else None,
        tokens_per_minute=message.tokens_per_minute if message.HasField("tokens_per_minute") else None,
    )


def moment(message: Timestamp, field: str) -> datetime:
    """A timestamp of a request. Raises InvalidFieldError for one that is no moment."""
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        shown = f"{message.seconds} s and {message.nanos} ns"
        raise errors.InvalidFieldError(field, shown, "a moment of the years 1 .. 9999") from None


def account_message(account: Account, balance: Balance, defaults: Limits) -> account_pb2.Account:
    """With the limits in force: the account's own, else the operator's `defaults`."""
    in_force = account.limits.over(defaults)
    return account_pb2.Account(
        id=account.id,
        create_time=account.create_time,
        limits=account_pb2.Limits(
            max_in_flight=in_force.max_in_flight,
            requests_per_minute=in_force.requests_per_minute,
            tokens_per_minute=in_force.tokens_per_minute,
        ),
        available_pico_usd=balance.available,
        reserved_pico_usd=balance.reserved,
    )


def key_message(key: Key) -> account_pb2.Key:
    """What may be shown of a key."""
    return account_pb2.Key(
        id=key.id,
        account_id=key.account_id,
        description=key.description,
        prefix=key.prefix,
        create_time=key.create_time,
        revoke_time=key.revoke_time,
    )


def usage_message(record: UsageRecord) -> account_pb2.UsageRecord:
    """One request's record."""
    request, ending = record.request, record.ending
    return account_pb2.UsageRecord(
        request_id=request.request_id,
        client_request_id=request.client_request_id,
        start_time=request.start_time,
        end_time=ending.time,
        model=request.model,
        base_model=request.base_model,
        adapter_digest=request.adapter_digest,
        prompt_tokens=request.prompt_tokens,
        cached_tokens=ending.cached_tokens,
        completion_tokens=ending.completion_tokens,
        prompt_pico_usd_per_token=request.price.prompt,
        completion_pico_usd_per_token=request.price.completion,
        total_pico_usd=record.total,
        outcome=_OUTCOMES[ending.outcome],
    )


def bill_line(line: BillLine) -> account_pb2.BillLine:
    """One model at one price."""
    return account_pb2.BillLine(
        model=line.model,
        base_model=line.base_model,
        lora=line.lora,
        requests=line.requests,
        prompt_tokens=line.prompt_tokens,
        completion_tokens=line.completion_tokens,
        prompt_pico_usd_per_token=line.price.prompt,
        completion_pico_usd_per_token=line.price.completion,
        total_pico_usd=line.total,
    )
