"""What surrounds every call of our own services: a request id, one log line, errors as statuses."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import structlog

from services.common import errors, internal, logs, rpc_status
from services.common.rpc_types import RpcContext

_log = logs.get_logger(__name__)

# Request and response types differ by method, and grpc's own handler types are unparametrised.
Behavior = Callable[[Any, RpcContext], Awaitable[Any]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each method of a `loramux.` service; health and reflection pass untouched.

    Servicers write streams with `context.write` from coroutines (async generators are closed late), so one
    wrapper fits all four kinds of methods.
    """

    def __init__(self, calls: internal.InternalCalls | None = None) -> None:
        """With `calls`, every method needs the internal secret; without, auth is the servicers' own."""
        self._calls = calls

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # a grpc.RpcMethodHandler or None, which grpc types as Any
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or not method.startswith("/loramux."):
            return handler
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            behavior = getattr(handler, kind)
            if behavior is not None:
                make = getattr(grpc, f"{kind}_rpc_method_handler")
                return make(
                    self._guarded(method, behavior),
                    request_deserializer=handler.request_deserializer,
                    response_serializer=handler.response_serializer,
                )
        raise TypeError(f"{method} has no behavior")

    def _guarded(self, method: str, behavior: Behavior) -> Behavior:
        async def guarded(request: Any, context: RpcContext) -> Any:
            metadata = internal.metadata_of(context)
            request_id = self._request_id(metadata)
            with structlog.contextvars.bound_contextvars(request_id=request_id, method=method):
                started = time.monotonic()
                outcome = "INTERNAL"
                try:
                    if self._calls is not None:
                        self._calls.check(metadata)
                    response = await behavior(request, context)
                    outcome = "OK"
                except errors.ServiceError as error:
                    outcome = errors.status_of(error).grpc
                    _log.info("call_refused", reason=error.reason, message=error.message)
                    await rpc_status.abort(context, error)
                except grpc.aio.AbortError:
                    outcome = "ABORTED_BY_SERVICER"
                    raise
                except asyncio.CancelledError:
                    outcome = "CANCELLED"
                    if context.cancelled() or _task_is_being_cancelled():
                        raise
                    # Raised by the servicer itself: grpc would send no status, and the client would hang.
                    outcome = "UNAVAILABLE"
                    await rpc_status.abort(context, _cut_short())
                except Exception:  # whatever it is, clients must not see it
                    _log.exception("call_failed")
                    await rpc_status.abort(context, errors.InternalError(request_id))
                finally:
                    _log.info(
                        "call_ended",
                        code=outcome,
                        seconds=round(time.monotonic() - started, 6),
                    )
                return response

        return guarded

    def _request_id(self, metadata: dict[str, str]) -> str:
        """The caller's, where the caller is one of us; else a fresh one."""
        passed = metadata.get(internal.REQUEST_ID, "") if self._calls is not None else ""
        return passed or uuid.uuid4().hex


def request_id() -> str:
    """The server's id of the call being handled; empty outside a call."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))


def _task_is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _cut_short() -> errors.UnavailableError:
    return errors.UnavailableError(
        "CALL_CUT_SHORT",
        "the service ended the call before it was done",
        retry_after=1.0,
    )
