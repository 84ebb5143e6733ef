"""What surrounds every call of our own services: the door before the message, a request id, one log line, errors as statuses."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import grpc
import grpc.aio
import structlog

from services.common import errors, internal, logs, rpc_status
from services.common.rpc_types import RpcContext
from services.common.shielding import task_is_cancelled

_log = logs.get_logger(__name__)

# Request and response types differ by method, and grpc's own handler types are unparametrised.
Behavior = Callable[[Any, RpcContext], Awaitable[Any]]

_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Door(Protocol):
    """Who may call a service. Opened by a call's metadata alone, before its message is parsed."""

    @property
    def takes_request_ids(self) -> bool:
        """Whether those who pass are services of ours, whose request ids go on."""
        ...

    async def open(self, metadata: Mapping[str, str]) -> None:
        """Let a call in, or raise a ServiceError. What it sets in context variables, the servicer finds there."""
        ...


class InternalDoor:
    """For services of ours, by a secret."""

    takes_request_ids = True

    def __init__(self, calls: internal.InternalCalls) -> None:
        self._calls = calls

    async def open(self, metadata: Mapping[str, str]) -> None:
        """See Door. Raises UnauthenticatedError."""
        self._calls.check(metadata)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each method of a `loramux.` service; health and reflection pass untouched.

    Servicers write streams from coroutines (async generators are closed late), so one wrapper fits all four kinds
    of methods.
    """

    def __init__(self, doors: Mapping[str, Door]) -> None:
        """`doors` by full name of the service."""
        self._doors = doors

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # a grpc.RpcMethodHandler or None, which grpc types as Any
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or not method.startswith("/loramux."):
            return handler
        door = self._doors[method[1:].partition("/")[0]]
        metadata = internal.as_mapping(handler_call_details.invocation_metadata)
        call = _Call(method, _request_id(door, metadata))
        refusal = await call.refusal(door, metadata)
        for kind in _KINDS:
            behavior = getattr(handler, kind)
            if behavior is not None:
                make = getattr(grpc, f"{kind}_rpc_method_handler")
                if refusal is not None:
                    # Without a deserializer: what is refused is never parsed.
                    return make(call.guarded(_raising(refusal)))
                return make(
                    call.guarded(behavior),
                    request_deserializer=handler.request_deserializer,
                    response_serializer=handler.response_serializer,
                )
        raise TypeError(f"{method} has no behavior")


class _Call:
    """One call, from its door to its log line."""

    def __init__(self, method: str, request_id: str) -> None:
        self._method = method
        self._request_id = request_id
        self._started = time.monotonic()

    async def refusal(self, door: Door, metadata: Mapping[str, str]) -> errors.ServiceError | None:
        """Why the door does not let the call in; None where it does."""
        with structlog.contextvars.bound_contextvars(request_id=self._request_id, method=self._method):
            try:
                await door.open(metadata)
            except errors.ServiceError as error:
                return error
            except Exception:  # whatever it is, clients must not see it
                _log.exception("door_failed")
                return errors.InternalError(self._request_id)
        return None

    def guarded(self, behavior: Behavior) -> Behavior:
        """The method with what surrounds it."""

        async def guarded(request: Any, context: RpcContext) -> Any:
            with structlog.contextvars.bound_contextvars(request_id=self._request_id, method=self._method):
                outcome = "INTERNAL"
                context.set_trailing_metadata(((internal.REQUEST_ID, self._request_id),))
                try:
                    response = await behavior(request, context)
                    outcome = "OK"
                except errors.ServiceError as error:
                    outcome = errors.status_of(error).grpc
                    _log.info("call_refused", reason=error.reason, message=error.message)
                    await rpc_status.abort(context, error, self._request_id)
                except asyncio.CancelledError:
                    outcome = "CANCELLED"
                    if context.cancelled() or task_is_cancelled():
                        raise
                    # Raised by the servicer itself: grpc would send no status, and the client would hang.
                    outcome = "UNAVAILABLE"
                    await rpc_status.abort(context, _cut_short(), self._request_id)
                except Exception:  # whatever it is, clients must not see it
                    _log.exception("call_failed")
                    await rpc_status.abort(context, errors.InternalError(self._request_id), self._request_id)
                finally:
                    _log.info(
                        "call_ended",
                        code=outcome,
                        seconds=round(time.monotonic() - self._started, 6),
                    )
                return response

        return guarded


class AnswerStream:
    """A stream of messages to a caller; the first one goes out with response headers that name the request.

    Nothing is sent before: a call is committed once its client has headers, and no retry covers it any more.
    """

    def __init__(self, context: RpcContext) -> None:
        self._context = context
        self._begun = False

    async def write(self, message: Any) -> None:  # Any: the message that the method's signature names
        """Send a message; waits while the caller does not read."""
        if not self._begun:
            self._begun = True
            await self._context.send_initial_metadata(((internal.REQUEST_ID, request_id()),))
        await self._context.write(message)


def _raising(error: errors.ServiceError) -> Behavior:
    async def refuse(_request: Any, _context: RpcContext) -> None:
        raise error

    return refuse


def _request_id(door: Door, metadata: Mapping[str, str]) -> str:
    """The caller's, where the caller is one of us; else a fresh one."""
    passed = metadata.get(internal.REQUEST_ID, "") if door.takes_request_ids else ""
    return passed or uuid.uuid4().hex


def request_id() -> str:
    """The server's id of the call being handled; empty outside a call."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))


def _cut_short() -> errors.UnavailableError:
    return errors.UnavailableError(
        "CALL_CUT_SHORT",
        "the service ended the call before it was done",
        retry_after=1.0,
    )
