"""Domain errors to gRPC statuses with google.rpc details, and the one way to abort a call with them."""

import math
from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from services.common import errors, internal
from services.common.rpc_types import RpcContext

# A detail repeats the message; all of a status must fit into a header.
_MAX_DESCRIPTION = 256
# https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback
_PUSHBACK = "grpc-retry-pushback-ms"


def to_status(error: errors.ServiceError) -> status_pb2.Status:
    """The google.rpc.Status of an error: its code, its message, ErrorInfo, then what its class adds."""
    status = status_pb2.Status(
        code=code_pb2.Code.Value(errors.status_of(error).grpc),
        message=error.message,
    )
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=errors.DOMAIN, metadata=error.metadata)
    for detail in (info, *_details(error)):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _details(error: errors.ServiceError) -> list[Message]:
    details: list[Message] = []
    match error:
        case errors.InvalidFieldError():
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=error.field,
                description=_described(error),
            )
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        case errors.AboveLimitError():
            details.append(_quota(error.limit, _described(error)))
        case errors.LimitReachedError():
            details += [_quota(error.subject, _described(error)), _retry(error.retry_after)]
        case errors.NoCreditError():
            details.append(_precondition("CREDIT", error.account, _described(error)))
        case errors.PreconditionError():
            details.append(_precondition(error.reason, error.subject, _described(error)))
        case errors.NotFoundError() | errors.AlreadyExistsError():
            details.append(
                error_details_pb2.ResourceInfo(resource_type=error.kind, resource_name=error.name),
            )
        case errors.UnavailableError():
            details.append(_retry(error.retry_after))
        case _:
            pass
    return details


def _quota(subject: str, description: str) -> Message:
    violation = error_details_pb2.QuotaFailure.Violation(subject=subject, description=description)
    failure: Message = error_details_pb2.QuotaFailure(violations=[violation])
    return failure


def _precondition(kind: str, subject: str, description: str) -> Message:
    violation = error_details_pb2.PreconditionFailure.Violation(
        type=kind,
        subject=subject,
        description=description,
    )
    failure: Message = error_details_pb2.PreconditionFailure(violations=[violation])
    return failure


def _retry(seconds: float) -> Message:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(math.ceil(seconds * 1000))
    message: Message = info
    return message


def _described(error: errors.ServiceError) -> str:
    return errors.shorten(error.message, _MAX_DESCRIPTION)


async def abort(context: RpcContext, error: errors.ServiceError, request_id: str) -> NoReturn:
    """End the call with this error, its request named in RequestInfo and in trailing metadata.

    Where the error says when to try again, gRPC's own retries are told so too (`grpc-retry-pushback-ms`).
    Raises grpc's AbortError, which must not be swallowed.
    """
    status = to_status(error)
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.RequestInfo(request_id=request_id))
    status.details.append(packed)
    wire = rpc_status.to_status(status)
    trailing = [*wire.trailing_metadata, (internal.REQUEST_ID, request_id)]
    match error:
        case errors.LimitReachedError() | errors.UnavailableError():
            trailing.append((_PUSHBACK, str(math.ceil(error.retry_after * 1000))))
        case _:
            pass
    await context.abort(wire.code, wire.details, tuple(trailing))
    raise AssertionError("abort returned")


def to_error(code: grpc.StatusCode, status: status_pb2.Status) -> errors.ServiceError | None:
    """The inverse of `to_status`: the error that another service of ours answered with; None where it is not one.

    An error whose class this process does not know comes back as the class above it, with its reason.
    """
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    subject = ""
    retry_after = None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToMilliseconds() / 1000
        else:
            subject = subject or _subject(detail)
    if info.domain != errors.DOMAIN or not info.reason:
        return None
    return errors.relayed(
        code.name,
        info.reason,
        status.message,
        dict(info.metadata),
        subject=subject,
        retry_after=retry_after,
    )


def _subject(detail: any_pb2.Any) -> str:
    """What a detail is about: the field, the quota, the thing."""
    bad, quota = error_details_pb2.BadRequest(), error_details_pb2.QuotaFailure()
    precondition = error_details_pb2.PreconditionFailure()
    if detail.Unpack(bad):
        return str(bad.field_violations[0].field) if bad.field_violations else ""
    if detail.Unpack(quota):
        return str(quota.violations[0].subject) if quota.violations else ""
    if detail.Unpack(precondition):
        return str(precondition.violations[0].subject) if precondition.violations else ""
    return ""
