"""Failed calls to workers and to the registry, as errors of ours."""

from typing import NoReturn, cast

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from loramux import errors as wire_errors
from services.common import errors, interceptors, logs, rpc_status
from services.common.rpc_types import RpcContext
from services.gateway.upstream.relayed import RelayedError

_log = logs.get_logger(__name__)

# What a connection that breaks, or a server that stops, ends calls with.
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def from_failed_call(error: grpc.aio.AioRpcError, lost: errors.UnavailableError) -> Exception:
    """What to raise: the other service's own status, or `lost` where it went away, or InternalError.

    UNAUTHENTICATED is never passed on: it speaks of our secret, not of the client's key.
    """
    status = wire_errors.status_of(error)
    reason = _reason(status) if status is not None else ""
    code = error.code()
    if reason and code is not grpc.StatusCode.UNAUTHENTICATED:
        return RelayedError(status, reason, unavailable=code is grpc.StatusCode.UNAVAILABLE)
    if code in _LOST:
        return lost
    _log.error("upstream_call_failed", code=code.name, details=error.details())
    return errors.InternalError(interceptors.request_id())


async def abort_relayed(context: RpcContext, error: RelayedError) -> NoReturn:
    """End the client's call with the other service's status, details and all."""
    await rpc_status.abort_with(context, cast("status_pb2.Status", error.status))


def _reason(status: status_pb2.Status) -> str:
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info) and info.domain == errors.DOMAIN:
            return str(info.reason)
    return ""
