"""InferenceService over gRPC: translation only."""

from typing import cast

from loramux.inference.v1 import inference_pb2, inference_pb2_grpc
from services.common import interceptors, internal
from services.common.rpc_types import RpcContext
from services.gateway.generate import Generate
from services.gateway.rpc import inference_messages
from services.gateway.upstream.failed_calls import abort_relayed
from services.gateway.upstream.relayed import RelayedError

NAME = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Errors are those of the use case; the interceptor turns them into statuses."""

    def __init__(self, generate: Generate) -> None:
        self._generate = generate

    async def Generate(  # type: ignore[override]  # the stubs allow generators only; see interceptors
        self, request: inference_pb2.GenerateRequest, context: RpcContext
    ) -> None:
        """Chunks as they come, then the completion. Sends nothing, headers included, before the first chunk."""

        async def deliver(chunk: object) -> None:
            # From a worker's message, as it is.
            await context.write(inference_pb2.GenerateResponse(chunk=cast("inference_pb2.Chunk", chunk)))

        try:
            answer = await self._generate.run(
                internal.metadata_of(context).get("authorization", ""),
                inference_messages.generate_request(request),
                interceptors.request_id(),
                deliver,
            )
        except RelayedError as error:
            await abort_relayed(context, error)
        await context.write(
            inference_pb2.GenerateResponse(completion=inference_messages.completion(answer)),
        )
