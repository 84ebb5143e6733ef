"""Streams of the async client. Dropping one, or leaving its loop, cancels the call at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import grpc

from loramux import errors, results
from loramux.deployment.v1 import deployment_pb2
from loramux.inference.v1 import inference_pb2

Response = TypeVar("Response")
Response_co = TypeVar("Response_co", covariant=True)


class _Call(Protocol[Response_co]):
    def __aiter__(self) -> AsyncIterator[Response_co]: ...
    def cancel(self) -> bool: ...


class Received:
    """What a generate stream has brought so far; shared by the async and the sync client."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._completion: results.Completion | None = None

    def take(self, response: inference_pb2.GenerateResponse) -> results.Chunk | None:
        """Note a response; returns its chunk, None where it has none."""
        if response.HasField("completion"):
            self._completion = results.completion_of(response.completion)
        if not response.HasField("chunk"):
            return None
        chunk = results.chunk_of(response.chunk)
        if chunk.index == 0:
            self._texts.append(chunk.text)
        return chunk

    @property
    def text(self) -> str:
        """The first choice's, so far."""
        return "".join(self._texts)

    @property
    def completion(self) -> results.Completion:
        """Raises RuntimeError before the end."""
        if self._completion is None:
            raise RuntimeError("the stream has not been read to its end, so it has no completion")
        return self._completion

    def check_whole(self) -> None:
        """A stream that ended in OK carried a completion; raises InternalError where it did not."""
        if self._completion is None:
            raise errors.InternalError(
                errors.ErrorDetails(grpc.StatusCode.INTERNAL, "the stream ended without a completion")
            )


class AsyncReader(Generic[Response]):
    """Reads a call's responses, with typed exceptions for however it ends."""

    def __init__(self, call: _Call[Response]) -> None:
        self._call = call
        self._responses = aiter(call)
        self._error: errors.LoramuxError | None = None

    async def read(self) -> Response | None:
        """The next response; None at the end. Raises LoramuxError, and the same one again when read on."""
        if self._error is not None:
            raise self._error
        try:
            return await anext(self._responses, None)
        except grpc.RpcError as error:
            self._error = errors.from_rpc_error(error)
            raise self._error from error
        except asyncio.CancelledError:
            try:
                raise_unless_task_cancelled()
            except errors.CancelledError as error:
                self._error = error
                raise
            raise

    def cancel(self) -> None:
        """End the call now; nothing happens where it has ended."""
        # A stream may outlive its event loop, which then has ended the call.
        with contextlib.suppress(RuntimeError):
            self._call.cancel()


def raise_unless_task_cancelled() -> None:
    """Inside a handler of asyncio.CancelledError: raise CancelledError if only the call was cancelled.

    grpc raises the same class for a call that this program cancelled and for a task that is being cancelled.
    """
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        raise errors.CancelledError(
            errors.ErrorDetails(grpc.StatusCode.CANCELLED, "the call was cancelled by this client")
        ) from None


class GenerateStream:
    """An answer as it is produced.

    Iterate for chunks; afterwards `completion` has the end. Breaking out of the loop cancels the call, and so
    does leaving `async with`, or `cancel`. However the call fails, iteration raises a LoramuxError.
    """

    def __init__(self, call: _Call[inference_pb2.GenerateResponse]) -> None:
        self._reader = AsyncReader(call)
        self._received = Received()

    def __aiter__(self) -> AsyncIterator[results.Chunk]:
        # The loop holds the only reference to this object, so that a break drops it.
        return _Chunks(self._reader, self._received)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    async def text(self) -> str:
        """Read to the end; the first choice's whole text, also what was iterated before."""
        async for _ in self:
            pass
        return self._received.text

    @property
    def completion(self) -> results.Completion:
        """How it ended, and what it used and cost. Raises RuntimeError before the end."""
        return self._received.completion

    def cancel(self) -> None:
        """End the call now. Prompt and tokens produced so far are charged."""
        self._reader.cancel()


class _Chunks(AsyncIterator[results.Chunk]):
    def __init__(self, reader: AsyncReader[inference_pb2.GenerateResponse], received: Received) -> None:
        self._reader = reader
        self._received = received

    def __del__(self) -> None:
        self._reader.cancel()

    async def __anext__(self) -> results.Chunk:
        while (response := await self._reader.read()) is not None:
            chunk = self._received.take(response)
            if chunk is not None:
                return chunk
        self._received.check_whole()
        raise StopAsyncIteration


class DeploymentWatch(AsyncIterator[deployment_pb2.Deployment]):
    """A deployment as it is, then at each change. Dropping it, or `cancel`, ends the call."""

    def __init__(self, call: _Call[deployment_pb2.WatchDeploymentResponse]) -> None:
        self._reader = AsyncReader(call)

    def __del__(self) -> None:
        self.cancel()

    async def __anext__(self) -> deployment_pb2.Deployment:
        response = await self._reader.read()
        if response is None:
            raise StopAsyncIteration
        return response.deployment

    def cancel(self) -> None:
        """End the call now."""
        self._reader.cancel()
