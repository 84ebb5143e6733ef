"""Streams of the sync client. Dropping one, or leaving its loop, cancels the call at once."""

from collections.abc import Iterator
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import grpc

from loramux import errors, results
from loramux.deployment.v1 import deployment_pb2
from loramux.inference.v1 import inference_pb2
from loramux.streams import Received

Response = TypeVar("Response")
Response_co = TypeVar("Response_co", covariant=True)


class _Call(Protocol[Response_co]):
    def __iter__(self) -> Iterator[Response_co]: ...
    def __next__(self) -> Response_co: ...
    def cancel(self) -> bool: ...


class SyncReader(Generic[Response]):
    """Reads a call's responses, with typed exceptions for however it ends."""

    def __init__(self, call: _Call[Response]) -> None:
        self._call = call
        self._error: errors.LoramuxError | None = None

    def read(self) -> Response | None:
        """The next response; None at the end. Raises LoramuxError, and the same one again when read on."""
        if self._error is not None:
            raise self._error
        try:
            return next(self._call, None)
        except grpc.RpcError as error:
            self._error = errors.from_rpc_error(error)
            raise self._error from error

    def cancel(self) -> None:
        """End the call now; nothing happens where it has ended."""
        self._call.cancel()


class SyncGenerateStream:
    """An answer as it is produced.

    Iterate for chunks; afterwards `completion` has the end. Breaking out of the loop cancels the call, and so
    does leaving `with`, or `cancel`. However the call fails, iteration raises a LoramuxError.
    """

    def __init__(self, call: _Call[inference_pb2.GenerateResponse]) -> None:
        self._reader = SyncReader(call)
        self._received = Received()

    def __iter__(self) -> Iterator[results.Chunk]:
        # The loop holds the only reference to this generator, so that a break ends it.
        try:
            while (response := self._reader.read()) is not None:
                chunk = self._received.take(response)
                if chunk is not None:
                    yield chunk
            self._received.check_whole()
        finally:
            self._reader.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def text(self) -> str:
        """Read to the end; the first choice's whole text, also what was iterated before."""
        for _ in self:
            pass
        return self._received.text

    @property
    def completion(self) -> results.Completion:
        """How it ended, and what it used and cost. Raises RuntimeError before the end."""
        return self._received.completion

    def cancel(self) -> None:
        """End the call now. Prompt and tokens produced so far are charged."""
        self._reader.cancel()


class SyncDeploymentWatch(Iterator[deployment_pb2.Deployment]):
    """A deployment as it is, then at each change. Dropping it, or `cancel`, ends the call."""

    def __init__(self, call: _Call[deployment_pb2.WatchDeploymentResponse]) -> None:
        self._reader = SyncReader(call)

    def __del__(self) -> None:
        self.cancel()

    def __next__(self) -> deployment_pb2.Deployment:
        response = self._reader.read()
        if response is None:
            raise StopIteration
        return response.deployment

    def cancel(self) -> None:
        """End the call now."""
        self._reader.cancel()
