"""Messages of inference.proto to the gateway's values and back."""

from collections.abc import Sized

from google.protobuf.duration_pb2 import Duration

from loramux.inference.v1 import chat_pb2, inference_pb2, sampling_pb2
from loramux.type.v1 import token_price_pb2
from services.common import errors
from services.gateway.answer import Answer, Chunk, TokenLogprob
from services.gateway.billing.money import TokenPrice
from services.gateway.request import (
    ChatMessage,
    ChatPrompt,
    GenerateRequest,
    Prompt,
    Sampling,
    TextPrompt,
    TokenPrompt,
)

_MAX_MESSAGES = 1_024
_MAX_PARTS = 64
_MAX_IDS = 1 << 20
_MAX_STOPS = 16
_MAX_BIASES = 1_024


def generate_request(message: inference_pb2.GenerateRequest) -> GenerateRequest:
    """A client's request. Counts are bounded before values are built.

    Raises InvalidFieldError, and NotImplementedYetError for what the contract can say and nobody does yet.
    """
    _check_counts(message)
    _check_done(message)
    return GenerateRequest(
        model=message.model,
        prompt=_prompt(message),
        sampling=sampling(message.sampling),
        client_request_id=message.client_request_id,
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


def chunk(value: Chunk) -> inference_pb2.Chunk:
    """A chunk on its way to a client."""
    return inference_pb2.Chunk(
        index=value.index,
        text=value.text,
        token_ids=value.token_ids,
        logprobs=[_logprob(one) for one in value.logprobs],
    )


def completion(answer: Answer) -> inference_pb2.Completion:
    """The last message of a stream. Numbers of finish reasons pass as they are: the enum is open."""
    message = inference_pb2.Completion(
        request_id=answer.request_id,
        client_request_id=answer.client_request_id,
        model=answer.model,
        version_digest=answer.version_digest,
        usage=inference_pb2.Usage(
            prompt_tokens=answer.prompt_tokens,
            cached_tokens=answer.cached_tokens,
            completion_tokens=answer.completion_tokens,
        ),
        cost=inference_pb2.Cost(price=token_price(answer.price), total_pico_usd=answer.total),
        fingerprint=inference_pb2.Fingerprint(engine=answer.engine, mode=answer.mode),
        timings=inference_pb2.Timings(total=_duration(answer.total_seconds)),
    )
    if answer.first_chunk_seconds is not None:
        message.timings.first_chunk.CopyFrom(_duration(answer.first_chunk_seconds))
    for choice in answer.choices:
        added = message.choices.add(index=choice.index, stop=choice.stop)
        # The stubs want a member of the enum; the message takes any number.
        added.finish_reason = choice.finish_reason  # type: ignore[assignment]
    return message


def token_price(price: TokenPrice) -> token_price_pb2.TokenPrice:
    """A price, in pico-USD."""
    return token_price_pb2.TokenPrice(
        prompt_pico_usd=price.prompt,
        cached_prompt_pico_usd=price.cached_prompt,
        completion_pico_usd=price.completion,
    )


def _prompt(message: inference_pb2.GenerateRequest) -> Prompt | None:
    match message.WhichOneof("prompt"):
        case "text":
            return TextPrompt(message.text)
        case "tokens":
            return TokenPrompt(tuple(message.tokens.ids))
        case "chat":
            return ChatPrompt(tuple(_turn(turn) for turn in message.chat.messages))
        case _:
            return None


def _turn(message: chat_pb2.ChatMessage) -> ChatMessage:
    return ChatMessage(message.role, "".join(part.text for part in message.content), message.name)


def _check_counts(message: inference_pb2.GenerateRequest) -> None:
    params = message.sampling
    _check_count("chat.messages", message.chat.messages, _MAX_MESSAGES)
    _check_count("tokens.ids", message.tokens.ids, _MAX_IDS)
    _check_count("sampling.stop", params.stop, _MAX_STOPS)
    _check_count("sampling.stop_token_ids", params.stop_token_ids, _MAX_STOPS)
    _check_count("sampling.logit_bias", params.logit_bias, _MAX_BIASES)
    for place, turn in enumerate(message.chat.messages):
        _check_count(f"chat.messages[{place}].content", turn.content, _MAX_PARTS)


def _check_count(field: str, values: Sized, most: int) -> None:
    if len(values) > most:
        raise errors.InvalidFieldError(field, f"{len(values)} entries", f"at most {most} entries")


def _check_done(message: inference_pb2.GenerateRequest) -> None:
    """Refuse, by name, what no code does yet: to pass over it would change the answer in silence."""
    chat = message.chat
    asked = {
        "constraint": (message.HasField("constraint"), "structured output"),
        "sampling.min_tokens": (message.sampling.min_tokens != 0, "a least number of tokens"),
        "chat.tools": (len(chat.tools) > 0, "the use of tools"),
        "chat.tool_choice": (chat.HasField("tool_choice"), "the use of tools"),
        "chat.template_arguments_json": (bool(chat.template_arguments_json), "arguments of a template"),
        "chat.continue_last_message": (chat.continue_last_message, "going on with a message"),
    }
    for field, (is_asked, what) in asked.items():
        if is_asked:
            raise errors.NotImplementedYetError(field, what)
    for place, turn in enumerate(chat.messages):
        if len(turn.tool_calls) or turn.tool_call_id:
            raise errors.NotImplementedYetError(f"chat.messages[{place}].tool_calls", "the use of tools")
        for number, part in enumerate(turn.content):
            if part.WhichOneof("part") is None:
                field = f"chat.messages[{place}].content[{number}]"
                raise errors.InvalidFieldError(field, "of an unknown kind", "a part with text")


def _logprob(value: TokenLogprob) -> inference_pb2.TokenLogprob:
    return inference_pb2.TokenLogprob(
        token_id=value.token_id,
        logprob=value.logprob,
        text=value.text,
        bytes=value.data,
        top=[
            inference_pb2.TopLogprob(
                token_id=one.token_id, logprob=one.logprob, text=one.text, bytes=one.data
            )
            for one in value.top
        ],
    )


def _duration(seconds: float) -> Duration:
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message
