"""Failed calls to workers and to the registry, as errors of ours."""

import grpc
import grpc.aio

from loramux import errors as wire_errors
from services.common import errors, logs, rpc_status

_log = logs.get_logger(__name__)

# What a connection that breaks, or a server that stops, ends calls with.
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def from_failed_call(
    error: grpc.aio.AioRpcError, lost: errors.UnavailableError, request_id: str
) -> errors.ServiceError:
    """What to raise: the other service's own error, or `lost` where it went away, or InternalError.

    UNAUTHENTICATED is never passed on: it speaks of our secret, not of the client's key.
    """
    code = error.code()
    status = wire_errors.status_of(error)
    relayed = None if status is None else rpc_status.to_error(code, status)
    if isinstance(relayed, errors.InternalError):
        # Theirs was logged there, under the same request id.
        return errors.InternalError(request_id)
    if relayed is not None and code is not grpc.StatusCode.UNAUTHENTICATED:
        return relayed
    if code in _LOST:
        return lost
    _log.error("upstream_call_failed", code=code.name, details=error.details())
    return errors.InternalError(request_id)
