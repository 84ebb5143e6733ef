"""Messages of worker.proto to the gateway's values and back."""

from loramux.fleet.v1 import fleet_pb2
from loramux.worker.v1 import worker_pb2
from services.gateway.answer import (
    Choice,
    Chunk,
    Event,
    Started,
    Summary,
    TokenLogprob,
    TopLogprob,
    finish_reason,
)
from services.gateway.job import Job
from services.gateway.request import Sampling
from services.gateway.routes import AdapterVersion


def worker_request(job: Job) -> worker_pb2.GenerateRequest:
    """What a worker is asked to run, every default filled in."""
    adapter = job.target.adapter
    return worker_pb2.GenerateRequest(
        request_id=job.request_id,
        account=job.account,
        adapter=None if adapter is None else _adapter(adapter),
        prompt_token_ids=job.prompt,
        sampling=_sampling(job.sampling),
    )


def event(message: worker_pb2.GenerateResponse) -> Event | None:
    """What a worker says; None for something that this gateway is too old to know, and passes over."""
    match message.WhichOneof("event"):
        case "chunk":
            return _chunk(message.chunk)
        case "started":
            return Started(cached_tokens=message.started.cached_tokens)
        case "summary":
            return _summary(message.summary)
        case _:
            return None


def _sampling(values: Sampling) -> worker_pb2.Sampling:
    """The defaults are those of sampling.proto."""
    return worker_pb2.Sampling(
        max_tokens=values.max_tokens or 0,
        temperature=1.0 if values.temperature is None else values.temperature,
        top_k=values.top_k or 0,
        top_p=1.0 if values.top_p is None else values.top_p,
        min_p=values.min_p or 0.0,
        repetition_penalty=1.0 if values.repetition_penalty is None else values.repetition_penalty,
        presence_penalty=values.presence_penalty or 0.0,
        frequency_penalty=values.frequency_penalty or 0.0,
        seed=values.seed or 0,
        stop=values.stop,
        stop_token_ids=values.stop_token_ids,
        logit_bias=values.logit_bias,
        logprobs=values.logprobs,
        ignore_eos=values.ignore_eos or False,
        n=1 if values.n is None else values.n,
    )


def _adapter(version: AdapterVersion) -> fleet_pb2.AdapterRef:
    return fleet_pb2.AdapterRef(
        digest=version.digest,
        hub_repo=version.hub_repo,
        commit=version.commit,
        config_sha256=version.config_sha256,
        weights_sha256=version.weights_sha256,
        size_bytes=version.size_bytes,
        deployment_uid=version.deployment_uid,
    )


def _chunk(message: worker_pb2.Chunk) -> Chunk:
    return Chunk(
        index=message.index,
        text=message.text,
        token_ids=tuple(message.token_ids),
        logprobs=tuple(_logprob(one) for one in message.logprobs),
    )


def _logprob(message: worker_pb2.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(
        token_id=message.token_id,
        logprob=message.logprob,
        text=message.text,
        data=message.bytes,
        top=tuple(TopLogprob(one.token_id, one.logprob, one.text, one.bytes) for one in message.top),
    )


def _summary(message: worker_pb2.Summary) -> Summary:
    return Summary(
        choices=tuple(
            Choice(index=choice.index, finish_reason=finish_reason(choice.finish_reason), stop=choice.stop)
            for choice in message.choices
        ),
        cached_tokens=message.cached_tokens,
        completion_tokens=message.completion_tokens,
        engine=message.engine,
        mode=message.mode,
    )
