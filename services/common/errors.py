"""Every error that may reach a client, and the one table that gives each its status.

Domain code raises these; `services.common.rpc_status` turns them into gRPC statuses, the HTTP edge into
responses. An exception that is not a `ServiceError` is a defect: clients see INTERNAL and nothing of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

DOMAIN = "loramux"


class ServiceError(Exception):
    """An error with a stable reason, a sentence for people, and metadata for programs.

    `reason` is UPPER_SNAKE_CASE and part of the public contract (ErrorInfo.reason).
    """

    def __init__(self, reason: str, message: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})


class InvalidFieldError(ServiceError):
    """A field's value is outside its bound."""

    def __init__(self, field: str, value: object, bound: str, *, reason: str = "INVALID_FIELD") -> None:
        shown = _shorten(value)
        super().__init__(
            reason,
            f"{field} is {shown}; it must be {bound}",
            {"field": field, "value": shown, "bound": bound},
        )
        self.field = field


class AboveLimitError(ServiceError):
    """The request is larger than the limit can ever hold: no retry helps."""

    def __init__(self, limit: str, requested: int, maximum: int) -> None:
        super().__init__(
            "REQUEST_ABOVE_LIMIT",
            f"the request needs {requested} {limit}; the limit is {maximum}",
            {"limit": limit, "requested": str(requested), "maximum": str(maximum)},
        )
        self.limit = limit


class UnauthenticatedError(ServiceError):
    """No key, or one that is wrong or revoked."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)


class PermissionDeniedError(ServiceError):
    """A valid key that may not do this."""

    def __init__(self, message: str) -> None:
        super().__init__("PERMISSION_DENIED", message)


class NotFoundError(ServiceError):
    """Unknown, or somebody else's: word for word the same."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(
            f"{kind.upper()}_NOT_FOUND",
            f"no {kind.replace('_', ' ')} named {_shorten(name)}",
            {"resource_type": kind, "resource_name": name},
        )
        self.kind = kind
        self.name = name


class AlreadyExistsError(ServiceError):
    """The name is taken."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(
            f"{kind.upper()}_EXISTS",
            f"a {kind.replace('_', ' ')} named {_shorten(name)} exists already",
            {"resource_type": kind, "resource_name": name},
        )
        self.kind = kind
        self.name = name


class LimitReachedError(ServiceError):
    """A pool is full or a rate is used up; `retry_after` is in seconds."""

    def __init__(self, reason: str, subject: str, message: str, *, maximum: int, retry_after: float) -> None:
        super().__init__(reason, message, {"subject": subject, "maximum": str(maximum)})
        self.subject = subject
        self.retry_after = retry_after


class NoCreditError(ServiceError):
    """The balance, less what is reserved, does not cover the request. Amounts in pico-USD."""

    def __init__(self, account: str, needed: int, available: int) -> None:
        super().__init__(
            "NO_CREDIT",
            f"the request may cost {needed} pico-USD; account {account} has {available} available",
            {
                "account": account,
                "needed_pico_usd": str(needed),
                "available_pico_usd": str(available),
            },
        )
        self.account = account


class PreconditionError(ServiceError):
    """The state of a thing does not allow this, and a retry alone does not change it."""

    def __init__(
        self,
        reason: str,
        subject: str,
        message: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reason, message, metadata)
        self.subject = subject


class StaleEtagError(ServiceError):
    """Somebody changed the thing since it was read."""

    def __init__(self, name: str) -> None:
        super().__init__(
            "STALE_ETAG",
            f"{name} has changed since it was read; read it again and repeat the change",
            {"resource_name": name},
        )


class UnavailableError(ServiceError):
    """Loading, draining, queue full, no worker: try again in `retry_after` seconds."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        retry_after: float,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reason, message, metadata)
        self.retry_after = retry_after


class InternalError(ServiceError):
    """Our defect. The message tells a client nothing but the id to quote."""

    def __init__(self, request_id: str) -> None:
        super().__init__(
            "INTERNAL",
            f"an internal error ended the request; quote request id {request_id} when reporting it",
            {"request_id": request_id},
        )


@dataclass(frozen=True)
class Status:
    """What an error is called on each edge."""

    grpc: str
    """Name of the gRPC status code."""
    http: int


STATUS: Mapping[type[ServiceError], Status] = {
    InvalidFieldError: Status("INVALID_ARGUMENT", 400),
    AboveLimitError: Status("INVALID_ARGUMENT", 400),
    UnauthenticatedError: Status("UNAUTHENTICATED", 401),
    NoCreditError: Status("FAILED_PRECONDITION", 402),
    PermissionDeniedError: Status("PERMISSION_DENIED", 403),
    NotFoundError: Status("NOT_FOUND", 404),
    AlreadyExistsError: Status("ALREADY_EXISTS", 409),
    PreconditionError: Status("FAILED_PRECONDITION", 409),
    StaleEtagError: Status("ABORTED", 409),
    LimitReachedError: Status("RESOURCE_EXHAUSTED", 429),
    InternalError: Status("INTERNAL", 500),
    UnavailableError: Status("UNAVAILABLE", 503),
}


def status_of(error: ServiceError) -> Status:
    """The row of the table for this error's class, or for the nearest class above it."""
    for cls in type(error).__mro__:
        if cls in STATUS:
            return STATUS[cls]
    raise TypeError(f"{type(error).__name__} has no row in the status table")


def _shorten(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"  # noqa: PLR2004
