"""Messages of worker.proto to the worker's values and back."""

from loramux.fleet.v1 import fleet_pb2
from loramux.inference.v1 import inference_pb2
from loramux.worker.v1 import worker_pb2
from services.common import errors
from services.common.adapters.version import AdapterVersion
from services.worker.chunks import Chunk, Started, Summary
from services.worker.engine.interface import EngineCapabilities, Finish, Sampling, TokenLogprob
from services.worker.generator import Request
from services.worker.text.resumed_text import Resumed
from services.worker.text.token_texts import TokenTexts

_MAX_WEIGHT = 1_000
# Numbers of the public enum: they pass through every hop as they are.
_FINISH = {
    Finish.STOP: int(inference_pb2.FINISH_REASON_STOP),
    Finish.LENGTH: int(inference_pb2.FINISH_REASON_LENGTH),
}


def request_of(message: worker_pb2.GenerateRequest) -> Request:
    """What the gateway asks for, which has checked it.

    Raises NotImplementedYetError for what is not done yet, and InvalidFieldError for a weight out of its bounds, which
    an engine divides by, and for what no worker can have produced.
    """
    for field, is_asked, what in (
        ("constraint", message.HasField("constraint"), "structured output"),
        ("sampling.min_tokens", message.sampling.min_tokens != 0, "a least number of tokens"),
    ):
        if is_asked:
            raise errors.NotImplementedYetError(field, what)
    weight = message.account_weight if message.HasField("account_weight") else 1.0
    if not 0 < weight <= _MAX_WEIGHT:
        raise errors.InvalidFieldError("account_weight", weight, f"above 0, at most {_MAX_WEIGHT:,}")
    return Request(
        request_id=message.request_id,
        account_id=message.account,
        adapter=adapter_version(message.adapter) if message.HasField("adapter") else None,
        prompt=tuple(message.prompt_token_ids),
        sampling=_sampling(message.sampling),
        stop=tuple(message.sampling.stop),
        choices=message.sampling.n or 1,
        account_weight=weight,
        resumed=_resumed(message),
    )


def deadline_of(message: worker_pb2.GenerateRequest) -> float | None:
    """Seconds that the caller still waits; None is for ever."""
    return message.deadline.ToNanoseconds() / 1e9 if message.HasField("deadline") else None


def adapter_version(ref: fleet_pb2.AdapterRef) -> AdapterVersion:
    """Which adapter."""
    return AdapterVersion(
        digest=ref.digest,
        hub_repo=ref.hub_repo,
        commit=ref.commit,
        config_sha256=ref.config_sha256,
        weights_sha256=ref.weights_sha256,
        size_bytes=ref.size_bytes,
        deployment_uid=ref.deployment_uid,
    )


class EventMessages:
    """What the generator yields, as messages of one engine."""

    def __init__(self, capabilities: EngineCapabilities, texts: TokenTexts) -> None:
        self._capabilities = capabilities
        self._texts = texts

    def response(self, event: Started | Chunk | Summary) -> worker_pb2.GenerateResponse:
        """One message of the stream."""
        match event:
            case Chunk():
                return worker_pb2.GenerateResponse(chunk=self._chunk(event))
            case Started():
                return worker_pb2.GenerateResponse(
                    started=worker_pb2.Started(
                        prompt_tokens=event.prompt_tokens, cached_tokens=event.cached_tokens
                    )
                )
            case Summary():
                return worker_pb2.GenerateResponse(summary=self._summary(event))

    def _chunk(self, chunk: Chunk) -> worker_pb2.Chunk:
        return worker_pb2.Chunk(
            index=chunk.choice,
            text=chunk.text,
            token_ids=chunk.token_ids,
            logprobs=[self._logprob(one) for one in chunk.logprobs],
        )

    def _logprob(self, logprob: TokenLogprob) -> worker_pb2.TokenLogprob:
        text, data = self._texts.of(logprob.token_id)
        return worker_pb2.TokenLogprob(
            token_id=logprob.token_id,
            logprob=logprob.logprob,
            text=text,
            bytes=data,
            top=[self._top(token_id, value) for token_id, value in logprob.top],
        )

    def _top(self, token_id: int, logprob: float) -> worker_pb2.TopLogprob:
        text, data = self._texts.of(token_id)
        return worker_pb2.TopLogprob(token_id=token_id, logprob=logprob, text=text, bytes=data)

    def _summary(self, summary: Summary) -> worker_pb2.Summary:
        return worker_pb2.Summary(
            choices=[
                worker_pb2.Choice(index=index, finish_reason=_FINISH[choice.finish], stop=choice.stop)
                for index, choice in enumerate(summary.choices)
            ],
            prompt_tokens=summary.prompt_tokens,
            cached_tokens=summary.cached_tokens,
            completion_tokens=summary.completion_tokens,
            engine=self._capabilities.engine,
            mode=self._capabilities.mode,
        )


def _resumed(message: worker_pb2.GenerateRequest) -> dict[int, Resumed]:
    resumed: dict[int, Resumed] = {}
    choices, most = message.sampling.n or 1, message.sampling.max_tokens
    for place, one in enumerate(message.resumed):
        if not 0 <= one.index < choices or one.index in resumed:
            expected = f"a choice from 0 to {choices - 1} that is named once"
            raise errors.InvalidFieldError(f"resumed[{place}].index", one.index, expected)
        if len(one.token_ids) > most:
            raise errors.InvalidFieldError(
                f"resumed[{place}].token_ids", f"{len(one.token_ids)} tokens", f"at most max_tokens, {most}"
            )
        if one.text_bytes_sent < 0:
            raise errors.InvalidFieldError(
                f"resumed[{place}].text_bytes_sent", one.text_bytes_sent, "at least 0"
            )
        resumed[one.index] = Resumed(tuple(one.token_ids), one.text_bytes_sent)
    return resumed


def _sampling(params: worker_pb2.Sampling) -> Sampling:
    """Complete: the gateway has filled in every default."""
    return Sampling(
        max_tokens=params.max_tokens,
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        seed=params.seed,
        stop_token_ids=frozenset(params.stop_token_ids),
        logit_bias=dict(params.logit_bias),
        logprobs=params.logprobs if params.HasField("logprobs") else None,
        ignore_eos=params.ignore_eos,
    )
