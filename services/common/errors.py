"""Every error that may reach a client, and the one table that gives each its status.

Domain code raises these; `services.common.rpc_status` turns them into gRPC statuses, the HTTP edge into
responses. An exception that is not a `ServiceError` is a defect: clients see INTERNAL and nothing of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

DOMAIN = "loramux"

# An error is bounded here, where it is made, whatever names and values of strangers go into it: it travels in
# headers of 8 KB, in rows and in routes. In bytes of UTF-8.
MAX_MESSAGE = 1_024
MAX_VALUE = 256
MAX_METADATA = 1_200
_MAX_SHOWN = 120


class ServiceError(Exception):
    """An error with a stable reason, a sentence for people, and metadata for programs.

    `reason` is UPPER_SNAKE_CASE and part of the public contract (ErrorInfo.reason). Message, reason and metadata are
    cut to their bounds, and printable.
    """

    def __init__(self, reason: str, message: str, metadata: Mapping[str, str] | None = None) -> None:
        self.reason = shorten(reason, 64)
        self.message = shorten(message, MAX_MESSAGE)
        self.metadata = _bounded(metadata or {})
        super().__init__(self.message)


class InvalidFieldError(ServiceError):
    """A field's value is outside its bound."""

    def __init__(self, field: str, value: object, bound: str, *, reason: str = "INVALID_FIELD") -> None:
        self.field = shorten(field, MAX_VALUE)
        shown, bound = _shown(value), shorten(bound, 2 * MAX_VALUE)
        super().__init__(
            reason,
            f"{self.field} is {shown}; it must be {bound}",
            {"field": self.field, "value": shown, "bound": bound},
        )


class NotImplementedYetError(ServiceError):
    """The contract can say it, and this service does not do it yet."""

    def __init__(self, field: str, what: str) -> None:
        super().__init__(
            "NOT_IMPLEMENTED",
            f"{field}: {what} is part of the contract, and this service does not do it yet",
            {"field": field},
        )


class AboveLimitError(ServiceError):
    """The request is larger than the limit can ever hold: no retry helps."""

    def __init__(self, limit: str, requested: int, maximum: int) -> None:
        super().__init__(
            "REQUEST_ABOVE_LIMIT",
            f"the request needs {requested} {limit}; the limit is {maximum}",
            {"limit": limit, "requested": str(requested), "maximum": str(maximum)},
        )
        self.limit = shorten(limit, MAX_VALUE)


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
            f"no {kind.replace('_', ' ')} named {_shown(name)}",
            {"resource_type": kind, "resource_name": name},
        )
        self.kind = shorten(kind, 64)
        self.name = shorten(name, MAX_VALUE)


class AlreadyExistsError(ServiceError):
    """The name is taken."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(
            f"{kind.upper()}_EXISTS",
            f"a {kind.replace('_', ' ')} named {_shown(name)} exists already",
            {"resource_type": kind, "resource_name": name},
        )
        self.kind = shorten(kind, 64)
        self.name = shorten(name, MAX_VALUE)


class LimitReachedError(ServiceError):
    """A pool is full or a rate is used up; `retry_after` is in seconds."""

    def __init__(self, reason: str, subject: str, message: str, *, maximum: int, retry_after: float) -> None:
        super().__init__(reason, message, {"subject": subject, "maximum": str(maximum)})
        self.subject = shorten(subject, MAX_VALUE)
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
        self.account = shorten(account, MAX_VALUE)


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
        self.subject = shorten(subject, MAX_VALUE)


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
    NotImplementedYetError: Status("UNIMPLEMENTED", 501),
    UnavailableError: Status("UNAVAILABLE", 503),
}


def status_of(error: ServiceError) -> Status:
    """The row of the table for this error's class, or for the nearest class above it."""
    for cls in type(error).__mro__:
        if cls in STATUS:
            return STATUS[cls]
    raise TypeError(f"{type(error).__name__} has no row in the status table")


def relayed(
    code: str,
    reason: str,
    message: str,
    metadata: Mapping[str, str],
    *,
    subject: str = "",
    retry_after: float | None = None,
) -> ServiceError | None:
    """An error that another service of ours answered with, as one of this process: same status, reason and words.

    `code` is the name of its gRPC status code; None for one that no class here has. `subject` is what it is about.
    """
    cls = _class_of(code, retry_after)
    if cls is None:
        return None
    error = cls.__new__(cls)
    ServiceError.__init__(error, reason, message, metadata)
    match error:
        case InvalidFieldError():
            error.field = shorten(subject or metadata.get("field", ""), MAX_VALUE)
        case AboveLimitError():
            error.limit = shorten(subject, MAX_VALUE)
        case NotFoundError() | AlreadyExistsError():
            error.kind, error.name = (
                error.metadata.get("resource_type", ""),
                error.metadata.get("resource_name", ""),
            )
        case NoCreditError():
            error.account = shorten(subject, MAX_VALUE)
        case PreconditionError() | LimitReachedError():
            error.subject = shorten(subject, MAX_VALUE)
        case _:
            pass
    if isinstance(error, (LimitReachedError, UnavailableError)):
        error.retry_after = 1.0 if retry_after is None else retry_after
    return error


def _class_of(code: str, retry_after: float | None) -> type[ServiceError] | None:
    """The first class of the table with that status; several share FAILED_PRECONDITION and INVALID_ARGUMENT."""
    if code == "FAILED_PRECONDITION":
        return PreconditionError
    if code == "RESOURCE_EXHAUSTED" and retry_after is None:
        return None  # the transport's own, not a limit of ours
    return next((cls for cls, status in STATUS.items() if status.grpc == code), None)


def shorten(text: str, longest: int) -> str:
    """`text` in at most `longest` bytes of UTF-8, control characters as escapes; one that was cut says how long it was."""
    head = text[:longest]
    clean = head if head.isprintable() else "".join(map(_printable, head))
    data = clean.encode()
    if len(text) <= longest and len(data) <= longest:
        return clean
    end = f"... ({len(text)} characters)"
    return data[: max(longest - len(end), 0)].decode(errors="ignore") + end


def _printable(character: str) -> str:
    return character if character.isprintable() or character == "\n" else repr(character)[1:-1]


def _bounded(metadata: Mapping[str, str]) -> dict[str, str]:
    """What fits of an error's metadata, in its order."""
    kept: dict[str, str] = {}
    room = MAX_METADATA
    for key, value in metadata.items():
        name, shown = shorten(key, 64), shorten(value, MAX_VALUE)
        room -= len(name.encode()) + len(shown.encode())
        if room < 0:
            break
        kept[name] = shown
    return kept


def _shown(value: object) -> str:
    """A value of a stranger as an error shows it."""
    if isinstance(value, str):
        return repr(value) if len(value) <= _MAX_SHOWN else f"{value[:100]!r}... ({len(value)} characters)"
    if isinstance(value, int) and value.bit_length() > 4 * _MAX_SHOWN:
        return f"a whole number of {value.bit_length()} bits"  # str() refuses it, or takes long
    text = str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:100]}... ({len(text)} characters)"
