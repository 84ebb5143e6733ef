"""Domain errors to gRPC statuses with google.rpc details, and the one way to abort a call with them."""

import math
from typing import NoReturn

from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from services.common import errors
from services.common.rpc_types import RpcContext


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
                description=error.message,
            )
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        case errors.AboveLimitError():
            details.append(_quota(error.limit, error.message))
        case errors.LimitReachedError():
            details += [_quota(error.subject, error.message), _retry(error.retry_after)]
        case errors.NoCreditError():
            details.append(_precondition("CREDIT", error.account, error.message))
        case errors.PreconditionError():
            details.append(_precondition(error.reason, error.subject, error.message))
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


async def abort(context: RpcContext, error: errors.ServiceError) -> NoReturn:
    """End the call with this error. Raises grpc's AbortError, which must not be swallowed."""
    await abort_with(context, to_status(error))


async def abort_with(context: RpcContext, status: status_pb2.Status) -> NoReturn:
    """End the call with a status made elsewhere, such as one relayed from another service."""
    wire = rpc_status.to_status(status)
    await context.abort(wire.code, wire.details, wire.trailing_metadata)
    raise AssertionError("abort returned")
