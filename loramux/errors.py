"""Typed exceptions for every status that a loramux service answers with."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"
_REQUEST_ID = "x-loramux-request-id"


@dataclass(frozen=True)
class FieldViolation:
    """One field of a request that is out of bounds."""

    field: str
    description: str


class LoramuxError(Exception):
    """What a call ended with. Its subclasses are the statuses that a client may want to tell apart."""

    def __init__(self, details: "ErrorDetails") -> None:
        super().__init__(f"{details.code.name}: {details.message}")
        self.details = details
        self.code = details.code
        self.message = details.message
        self.reason = details.reason
        """Stable and machine-readable, such as POOL_FULL; empty where the transport failed."""
        self.metadata = dict(details.metadata)
        self.retry_after = details.retry_after
        """Seconds after which a retry may succeed; None where no retry helps or none was named."""
        self.field_violations = details.field_violations
        self.request_id = details.request_id
        """The server's id of the call, to quote in a report; empty where no server answered."""

    def __reduce__(self) -> "tuple[type[LoramuxError], tuple[ErrorDetails]]":
        """By its details: an error crosses from one process to another as it is."""
        return type(self), (self.details,)


class InvalidArgumentError(LoramuxError):
    """A field is out of bounds, or the request is above what a limit can ever hold."""


class MessageTooLargeError(InvalidArgumentError):
    """The request is above what the transport takes in: 1 MiB."""


class NotImplementedYetError(LoramuxError):
    """The contract can say it, and the service does not do it yet; `metadata` names the field."""


class UnauthenticatedError(LoramuxError):
    """No key, or one that is wrong or revoked."""


class PermissionDeniedError(LoramuxError):
    """The key may not do this."""


class NotFoundError(LoramuxError):
    """No such thing, or none that this account may see."""


class AlreadyExistsError(LoramuxError):
    """The name is taken."""


class LimitReachedError(LoramuxError):
    """A pool is full or a rate is used up; see `retry_after`."""


class FailedPreconditionError(LoramuxError):
    """The state of a thing does not allow this."""


class NoCreditError(FailedPreconditionError):
    """The account's credit does not cover the request."""


class StaleEtagError(LoramuxError):
    """The thing has changed since it was read."""


class UnavailableError(LoramuxError):
    """Loading, draining, no worker, or no connection; see `retry_after`."""


class DeadlineExceededError(LoramuxError):
    """The call's own deadline passed."""


class CancelledError(LoramuxError):
    """The call was cancelled."""


class InternalError(LoramuxError):
    """A defect of the service."""


@dataclass(frozen=True)
class ErrorDetails:
    """A status and its google.rpc details, decoded."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after: float | None = None
    request_id: str = ""
    field_violations: tuple[FieldViolation, ...] = ()


_CLASSES: Mapping[grpc.StatusCode, type[LoramuxError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitReachedError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.ABORTED: StaleEtagError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CancelledError,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNIMPLEMENTED: NotImplementedYetError,
}


class _EndedCall(Protocol):
    """What grpc's sync and aio errors have in common; their stubs share no such class."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...


def from_rpc_error(error: grpc.RpcError) -> LoramuxError:
    """The typed exception of a failed call, sync or aio."""
    details = decode(error)
    cls = _CLASSES.get(details.code, LoramuxError)
    if details.reason == "NO_CREDIT":
        cls = NoCreditError
    if details.code is grpc.StatusCode.RESOURCE_EXHAUSTED and not details.reason:
        # The transport's own: no limit of ours is without a reason.
        cls = MessageTooLargeError
    return cls(details)


def decode(error: grpc.RpcError) -> ErrorDetails:
    """A failed call's status with the details that google.rpc defines."""
    call: _EndedCall = error
    status = status_of(error)
    reason, metadata, retry_after = "", {}, None
    violations: list[FieldViolation] = []
    for packed in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        bad = error_details_pb2.BadRequest()
        if packed.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif packed.Unpack(retry):
            retry_after = retry.retry_delay.ToMilliseconds() / 1000
        elif packed.Unpack(bad):
            violations += [FieldViolation(one.field, one.description) for one in bad.field_violations]
    return ErrorDetails(
        request_id=_request_id(error),
        code=call.code(),
        message=call.details() or "",
        reason=reason,
        metadata=metadata,
        retry_after=retry_after,
        field_violations=tuple(violations),
    )


def _request_id(error: grpc.RpcError) -> str:
    # As in status_of.
    trailing = cast("Iterable[tuple[str, str]]", error.trailing_metadata() or ())
    return next((value for key, value in trailing if key == _REQUEST_ID), "")


def status_of(error: grpc.RpcError) -> status_pb2.Status | None:
    """The google.rpc.Status that a failed call carries; None where the transport failed."""
    # Pairs at runtime, sync and aio alike; the stubs name a class that cannot be unpacked.
    trailing = cast("Iterable[tuple[str, bytes]]", error.trailing_metadata() or ())
    for key, value in trailing:
        if key == _DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None
