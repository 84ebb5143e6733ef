"""WorkerService: protobuf to domain and back, and nothing else."""

from contextlib import aclosing

import structlog

from loramux.fleet.v1 import fleet_pb2
from loramux.inference.v1 import inference_pb2, sampling_pb2
from loramux.worker.v1 import worker_pb2, worker_pb2_grpc
from services.common import errors
from services.common.adapters.version import AdapterVersion
from services.common.rpc_types import RpcContext
from services.worker.adapters.ready_adapters import Adapters
from services.worker.chunks import Chunk, Summary
from services.worker.engine.interface import Engine, Finish, Sampling, TokenLogprob
from services.worker.generator import Generator, Request

_FINISH = {
    Finish.STOP: inference_pb2.FINISH_REASON_STOP,
    Finish.LENGTH: inference_pb2.FINISH_REASON_LENGTH,
}


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """One worker's service."""

    def __init__(self, generator: Generator, adapters: Adapters, engine: Engine) -> None:
        self._generator = generator
        self._adapters = adapters
        self._engine = engine

    async def Generate(  # type: ignore[override]  # the stubs allow generators only; see interceptors
        self, request: worker_pb2.GenerateRequest, context: RpcContext
    ) -> None:
        """Chunks, then one summary; ends the sequence at once when the call is cancelled."""
        structlog.contextvars.bind_contextvars(account=request.account_id)
        async with aclosing(self._generator.run(_request_of(request))) as events:
            async for event in events:
                if isinstance(event, Chunk):
                    await context.write(worker_pb2.GenerateResponse(chunk=_chunk(event)))
                else:
                    await context.write(worker_pb2.GenerateResponse(summary=_summary(event)))

    async def LoadAdapter(
        self, request: worker_pb2.LoadAdapterRequest, _context: RpcContext
    ) -> worker_pb2.LoadAdapterResponse:
        """Fetch, check, load, and run it once."""
        if not request.HasField("adapter"):
            raise errors.InvalidFieldError("adapter", "unset", "an adapter version")
        await self._adapters.probe(_version(request.adapter))
        return worker_pb2.LoadAdapterResponse()

    async def GetStats(
        self, _request: worker_pb2.GetStatsRequest, _context: RpcContext
    ) -> worker_pb2.GetStatsResponse:
        """What runs, what waits, what is resident and held; tokens since the start."""
        stats = self._engine.stats()
        return worker_pb2.GetStatsResponse(
            running_sequences=stats.running,
            waiting_sequences=stats.waiting,
            adapters=[
                worker_pb2.ResidentAdapter(digest=digest, pins=pins, size_bytes=stats.adapter_bytes[digest])
                for digest, pins in stats.adapters.items()
            ],
            prompt_tokens_total=self._generator.totals.prompt_tokens,
            completion_tokens_total=self._generator.totals.completion_tokens,
        )


def _request_of(request: worker_pb2.GenerateRequest) -> Request:
    return Request(
        request_id=request.request_id,
        account_id=request.account_id,
        adapter=_version(request.adapter) if request.HasField("adapter") else None,
        prompt=tuple(request.prompt_token_ids),
        sampling=_sampling(request.sampling),
        stop=tuple(request.sampling.stop),
        choices=request.sampling.n or 1,
    )


def _version(ref: fleet_pb2.AdapterRef) -> AdapterVersion:
    return AdapterVersion(
        digest=ref.digest,
        hub_repo=ref.hub_repo,
        commit=ref.commit,
        config_sha256=ref.config_sha256,
        weights_sha256=ref.weights_sha256,
        size_bytes=ref.size_bytes,
        deployment_uid=ref.deployment_uid,
    )


def _sampling(params: sampling_pb2.SamplingParams) -> Sampling:
    """The gateway has checked the values; defaults are those of sampling.proto."""
    return Sampling(
        max_tokens=params.max_tokens,
        temperature=params.temperature if params.HasField("temperature") else 1.0,
        top_k=params.top_k,
        top_p=params.top_p if params.HasField("top_p") else 1.0,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty if params.HasField("repetition_penalty") else 1.0,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        seed=params.seed,
        stop_token_ids=frozenset(params.stop_token_ids),
        logit_bias=dict(params.logit_bias),
        logprobs=params.logprobs if params.HasField("logprobs") else None,
        ignore_eos=params.ignore_eos,
    )


def _chunk(chunk: Chunk) -> inference_pb2.Chunk:
    return inference_pb2.Chunk(
        index=chunk.choice,
        text=chunk.text,
        token_ids=chunk.token_ids,
        logprobs=[_logprob(one) for one in chunk.logprobs],
    )


def _logprob(logprob: TokenLogprob) -> inference_pb2.TokenLogprob:
    return inference_pb2.TokenLogprob(
        token_id=logprob.token_id,
        logprob=logprob.logprob,
        top=[inference_pb2.TopLogprob(token_id=one, logprob=value) for one, value in logprob.top],
    )


def _summary(summary: Summary) -> worker_pb2.Summary:
    return worker_pb2.Summary(
        choices=[
            inference_pb2.Choice(index=index, finish_reason=_FINISH[choice.finish], stop=choice.stop)
            for index, choice in enumerate(summary.choices)
        ],
        usage=inference_pb2.Usage(
            prompt_tokens=summary.prompt_tokens,
            cached_tokens=summary.cached_tokens,
            completion_tokens=summary.completion_tokens,
        ),
    )
