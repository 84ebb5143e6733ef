"""Messages of inference.proto and worker.proto to the gateway's values and back."""

from loramux.fleet.v1 import fleet_pb2
from loramux.inference.v1 import inference_pb2, sampling_pb2
from loramux.worker.v1 import worker_pb2
from services.gateway.generate import Answer
from services.gateway.job import Choice, Job, Summary
from services.gateway.request import (
    ChatMessage,
    ChatPrompt,
    GenerateRequest,
    Prompt,
    Sampling,
    TextPrompt,
    TokenPrompt,
)
from services.gateway.routes import AdapterVersion


def generate_request(message: inference_pb2.GenerateRequest) -> GenerateRequest:
    """A client's request."""
    return GenerateRequest(
        model=message.model,
        prompt=_prompt(message),
        sampling=sampling(message.sampling),
        client_request_id=message.request_id,
    )


def sampling(message: sampling_pb2.SamplingParams) -> Sampling:
    """Unset stays unset."""
    return Sampling(
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        temperature=message.temperature if message.HasField("temperature") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        top_p=message.top_p if message.HasField("top_p") else None,
        min_p=message.min_p if message.HasField("min_p") else None,
        repetition_penalty=message.repetition_penalty if message.HasField("repetition_penalty") else None,
        presence_penalty=message.presence_penalty if message.HasField("presence_penalty") else None,
        frequency_penalty=message.frequency_penalty if message.HasField("frequency_penalty") else None,
        seed=message.seed if message.HasField("seed") else None,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        logit_bias=dict(message.logit_bias),
        logprobs=message.logprobs if message.HasField("logprobs") else None,
        ignore_eos=message.ignore_eos if message.HasField("ignore_eos") else None,
        n=message.n if message.HasField("n") else None,
    )


def sampling_message(values: Sampling) -> sampling_pb2.SamplingParams:
    """The inverse of `sampling`."""
    return sampling_pb2.SamplingParams(
        max_tokens=values.max_tokens,
        temperature=values.temperature,
        top_k=values.top_k,
        top_p=values.top_p,
        min_p=values.min_p,
        repetition_penalty=values.repetition_penalty,
        presence_penalty=values.presence_penalty,
        frequency_penalty=values.frequency_penalty,
        seed=values.seed,
        stop=values.stop,
        stop_token_ids=values.stop_token_ids,
        logit_bias=values.logit_bias,
        logprobs=values.logprobs,
        ignore_eos=values.ignore_eos,
        n=values.n,
    )


def worker_request(job: Job) -> worker_pb2.GenerateRequest:
    """What a worker is asked to run."""
    return worker_pb2.GenerateRequest(
        request_id=job.request_id,
        account_id=job.account,
        adapter=None if job.target.adapter is None else _adapter(job.target.adapter),
        prompt_token_ids=job.prompt,
        sampling=sampling_message(job.sampling),
    )


def summary(message: worker_pb2.Summary) -> Summary:
    """A worker's last word."""
    return Summary(
        choices=tuple(
            Choice(index=choice.index, finish_reason=choice.finish_reason, stop=choice.stop)
            for choice in message.choices
        ),
        cached_tokens=message.usage.cached_tokens,
        completion_tokens=message.usage.completion_tokens,
    )


def completion(answer: Answer) -> inference_pb2.Completion:
    """The last message of a stream."""
    return inference_pb2.Completion(
        request_id=answer.request_id,
        model=answer.model,
        choices=[
            inference_pb2.Choice(
                index=choice.index,
                # The value came from a Choice of the same enum.
                finish_reason=inference_pb2.FinishReason.Name(choice.finish_reason),
                stop=choice.stop,
            )
            for choice in answer.choices
        ],
        usage=inference_pb2.Usage(
            prompt_tokens=answer.prompt_tokens,
            cached_tokens=answer.cached_tokens,
            completion_tokens=answer.completion_tokens,
        ),
        cost=inference_pb2.Cost(
            prompt_pico_usd_per_token=answer.price.prompt,
            completion_pico_usd_per_token=answer.price.completion,
            total_pico_usd=answer.total,
        ),
    )


def _prompt(message: inference_pb2.GenerateRequest) -> Prompt | None:
    match message.WhichOneof("prompt"):
        case "text":
            return TextPrompt(message.text)
        case "tokens":
            return TokenPrompt(tuple(message.tokens.ids))
        case "chat":
            return ChatPrompt(tuple(ChatMessage(turn.role, turn.content) for turn in message.chat.messages))
        case _:
            return None


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
