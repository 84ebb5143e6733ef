"""InferenceService over gRPC: translation only."""

from loramux.inference.v1 import inference_pb2, inference_pb2_grpc
from services.common import interceptors
from services.common.rpc_types import RpcContext
from services.gateway.answer import Chunk
from services.gateway.generate import Generate
from services.gateway.rpc import caller, inference_messages

NAME = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Errors are those of the use case; the interceptor turns them into statuses."""

    def __init__(self, generate: Generate) -> None:
        self._generate = generate

    async def Generate(  # type: ignore[override]  # the stubs allow generators only; see interceptors
        self, request: inference_pb2.GenerateRequest, context: RpcContext
    ) -> None:
        """Chunks as they come, then the completion. Sends nothing, headers included, before the first chunk."""
        stream = interceptors.AnswerStream(context)

        async def deliver(chunk: Chunk) -> None:
            await stream.write(inference_pb2.GenerateResponse(chunk=inference_messages.chunk(chunk)))

        answer = await self._generate.run(
            caller.principal(),
            inference_messages.generate_request(request),
            interceptors.request_id(),
            deliver,
        )
        await stream.write(
            inference_pb2.GenerateResponse(completion=inference_messages.completion(answer)),
        )
