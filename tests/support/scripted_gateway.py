"""A gRPC server of the public services that answers from a script, and notes what it was asked."""

import collections
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status as wire

from loramux.account.v1 import account_pb2
from loramux.deployment.v1 import deployment_pb2
from loramux.inference.v1 import inference_pb2
from loramux.type.v1 import token_price_pb2
from services.common import rpc_status
from services.common.errors import ServiceError

Context = Any  # grpc's stubs make the context generic over each method's messages


@dataclass(frozen=True)
class Pushback:
    """Fail with this error, and tell the client when to come back."""

    error: ServiceError
    milliseconds: int


Step = Message | ServiceError | Pushback | threading.Event
"""What a call does next: send a message, fail, or wait until the event is set."""
Script = Sequence[Step] | Callable[[Any], Sequence[Step]]


@dataclass(frozen=True)
class Call:
    """One attempt of a client."""

    method: str
    request: Any
    metadata: dict[str, str]
    ended: threading.Event
    """Set when the call is over, however it ended."""


class ScriptedGateway:
    """Serves on a free port inside `with`. Each attempt takes the next script of its method."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        """With `credentials`, over TLS."""
        self.calls: list[Call] = []
        self._arrived = threading.Condition()
        self._scripts: dict[str, collections.deque[Script]] = collections.defaultdict(collections.deque)
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        for file in (inference_pb2, deployment_pb2, account_pb2):
            for service in file.DESCRIPTOR.services_by_name.values():
                handlers = {method.name: self._handler(method) for method in service.methods}
                self._server.add_generic_rpc_handlers(
                    (grpc.method_handlers_generic_handler(service.full_name, handlers),)
                )
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.target = f"127.0.0.1:{port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._server.stop(0).wait()

    def on(self, method: str, *scripts: Script) -> None:
        """Append scripts of a method, by its name: one for each attempt to come."""
        self._scripts[method].extend(scripts)

    def wait_for_calls(self, count: int) -> Sequence[Call]:
        """The first `count` calls, once they are there."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.calls) >= count, timeout=10)
            return self.calls[:count]

    def _handler(self, method: Any) -> Any:
        make = grpc.unary_stream_rpc_method_handler
        behavior: Callable[..., object] = self._stream
        if not method.server_streaming:
            make = grpc.unary_unary_rpc_method_handler
            behavior = self._single
        return make(
            lambda request, context: behavior(method.name, request, context),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def _single(self, method: str, request: Message, context: Context) -> Message:
        return next(self._stream(method, request, context))

    def _stream(self, method: str, request: Message, context: Context) -> Iterator[Message]:
        ended = threading.Event()
        if not context.add_callback(ended.set):
            ended.set()
        with self._arrived:
            self.calls.append(Call(method, request, dict(context.invocation_metadata()), ended))
            scripts = self._scripts[method]
            script = scripts.popleft() if scripts else ()
            self._arrived.notify_all()
        for step in script(request) if callable(script) else script:
            match step:
                case threading.Event():
                    while not step.wait(0.01) and not ended.is_set():
                        pass
                case ServiceError():
                    _abort(context, step)
                case Pushback():
                    _abort(context, step.error, ("grpc-retry-pushback-ms", str(step.milliseconds)))
                case _:
                    yield step


def _abort(context: Context, error: ServiceError, *metadata: tuple[str, str]) -> None:
    status = wire.to_status(rpc_status.to_status(error))
    context.set_trailing_metadata((*status.trailing_metadata, *metadata))
    context.abort(status.code, status.details)


def chunk(text: str, *token_ids: int) -> inference_pb2.GenerateResponse:
    """A chunk of the first choice."""
    return inference_pb2.GenerateResponse(chunk=inference_pb2.Chunk(text=text, token_ids=token_ids))


def completion() -> inference_pb2.GenerateResponse:
    """3 prompt and 2 completion tokens at LoRA prices, ended by the model."""
    return inference_pb2.GenerateResponse(
        completion=inference_pb2.Completion(
            request_id="r-1",
            model="acme/pirate",
            choices=[inference_pb2.Choice(finish_reason=inference_pb2.FINISH_REASON_STOP, stop="\n")],
            usage=inference_pb2.Usage(prompt_tokens=3, completion_tokens=2),
            cost=inference_pb2.Cost(
                price=token_price_pb2.TokenPrice(
                    prompt_pico_usd=30_000, cached_prompt_pico_usd=3_000, completion_pico_usd=90_000
                ),
                total_pico_usd=270_000,
            ),
        )
    )
