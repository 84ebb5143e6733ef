"""Every field of a generation request against its bound, as sampling.proto and inference.proto state them."""

import dataclasses
import math
import secrets
from collections.abc import Collection, Iterable

from services.common import errors
from services.gateway.accounts.names import check_client_request_id
from services.gateway.request import ChatPrompt, GenerateRequest, Prompt, Sampling, TextPrompt, TokenPrompt

DEFAULT_MAX_TOKENS = 1_024
MAX_MODEL_BYTES = 128

_MAX_NAME_BYTES = 64
_MAX_STOPS = 16
_MAX_STOP_BYTES = 256
_MAX_BIASES = 1_024
_MAX_BIAS = 100.0
_MAX_LOGPROBS = 20
_MAX_CHOICES = 16
# A seed that the server draws is a whole number that JSON carries exactly.
_SEED_BITS = 53

_Bound = tuple[float, float, str]
_FLOAT_BOUNDS: dict[str, _Bound] = {
    "temperature": (0.0, 2.0, "0 .. 2"),
    "top_p": (math.nextafter(0.0, 1.0), 1.0, "above 0, at most 1"),
    "min_p": (0.0, 1.0, "0 .. 1"),
    "repetition_penalty": (math.nextafter(0.0, 1.0), 2.0, "above 0, at most 2"),
    "presence_penalty": (-2.0, 2.0, "-2 .. 2"),
    "frequency_penalty": (-2.0, 2.0, "-2 .. 2"),
}


def check_request(request: GenerateRequest) -> Prompt:
    """Check what can be checked without the model; returns the prompt. Raises InvalidFieldError."""
    _check_model(request.model)
    check_client_request_id(request.client_request_id)
    match request.prompt:
        case None:
            raise errors.InvalidFieldError("prompt", "unset", "one of text, tokens, chat")
        case TextPrompt(text=""):
            raise errors.InvalidFieldError("text", "", "at least one character")
        case TokenPrompt(ids=()):
            raise errors.InvalidFieldError("tokens.ids", "empty", "at least one token id")
        case ChatPrompt():
            _check_chat(request.prompt)
        case _:
            pass
    _check_floats(request.sampling)
    _check_stops(request.sampling)
    return request.prompt


def check_prompt(prompt: Prompt, ids: tuple[int, ...], *, context: int, vocabulary: int) -> None:
    """Check an encoded prompt: it leaves room for a token, and names tokens that there are."""
    if not ids:
        raise errors.InvalidFieldError(prompt.field, "0 tokens", "at least one token")
    if len(ids) >= context:
        raise errors.InvalidFieldError(
            prompt.field,
            f"{len(ids)} tokens",
            f"at most {context - 1} tokens, one less than the model's context",
            reason="PROMPT_TOO_LONG",
        )
    if isinstance(prompt, TokenPrompt):
        _check_token_ids("tokens.ids", ids, vocabulary)


def check_stops_against(special_tokens: Collection[str], sampling: Sampling) -> None:
    """Refuse, by InvalidFieldError, stop strings of which a part can never be text.

    One that is a special token as a whole works: it is found as that token.
    """
    for place, stop in enumerate(sampling.stop):
        inside = next((token for token in special_tokens if token in stop and token != stop), None)
        if inside is not None:
            bound = f"text, or one special token alone: {inside} is a special token, which has no text"
            raise errors.InvalidFieldError(f"sampling.stop[{place}]", stop, bound)


def complete_sampling(sampling: Sampling, *, room: int, vocabulary: int) -> tuple[Sampling, int]:
    """Check what depends on the model, and fill in max_tokens and a seed.

    Returns beside it the most tokens that it can produce, over all choices. `room` is what the prompt leaves of the
    context, at least 1. Raises InvalidFieldError.
    """
    _check_int("n", sampling.n, 1, _MAX_CHOICES)
    _check_int("max_tokens", sampling.max_tokens, 1, room)
    _check_int("top_k", sampling.top_k, 0, vocabulary)
    _check_int("logprobs", sampling.logprobs, 0, min(_MAX_LOGPROBS, vocabulary))
    _check_token_ids("sampling.stop_token_ids", sampling.stop_token_ids, vocabulary)
    _check_token_ids("sampling.logit_bias", sampling.logit_bias, vocabulary)
    max_tokens = sampling.max_tokens
    if max_tokens is None:
        max_tokens = min(DEFAULT_MAX_TOKENS, room)
    seed = secrets.randbits(_SEED_BITS) if sampling.seed is None else sampling.seed
    return dataclasses.replace(sampling, max_tokens=max_tokens, seed=seed), max_tokens * (sampling.n or 1)


def with_end_tokens(sampling: Sampling, end_token_ids: Collection[int]) -> Sampling:
    """Let a turn end where the adapter's repo says, unless the caller wants none to end."""
    if sampling.ignore_eos or not end_token_ids:
        return sampling
    ends = dict.fromkeys((*sampling.stop_token_ids, *end_token_ids))
    return dataclasses.replace(sampling, stop_token_ids=tuple(ends))


def _check_model(model: str) -> None:
    size = len(model.encode(errors="replace"))
    if not 1 <= size <= MAX_MODEL_BYTES:
        bound = f"a base model's name or a deployment's account/name, of at most {MAX_MODEL_BYTES} bytes"
        raise errors.InvalidFieldError("model", model, bound)
    if "/" in model and "@" in model:
        raise errors.NotImplementedYetError("model", "a version of a deployment (name@version)")


def _check_chat(chat: ChatPrompt) -> None:
    if not chat.messages:
        raise errors.InvalidFieldError("chat.messages", "empty", "at least one message")
    for place, message in enumerate(chat.messages):
        for name, least in (("role", 1), ("name", 0)):
            value = getattr(message, name)
            if not least <= len(value.encode(errors="replace")) <= _MAX_NAME_BYTES:
                bound = f"{least} .. {_MAX_NAME_BYTES} bytes"
                raise errors.InvalidFieldError(f"chat.messages[{place}].{name}", value, bound)


def _check_floats(sampling: Sampling) -> None:
    for name, (least, most, bound) in _FLOAT_BOUNDS.items():
        value = getattr(sampling, name)
        # Not a number fails every comparison.
        if value is not None and not least <= value <= most:
            raise errors.InvalidFieldError(f"sampling.{name}", value, bound)
    if len(sampling.logit_bias) > _MAX_BIASES:
        count = f"{len(sampling.logit_bias)} entries"
        raise errors.InvalidFieldError("sampling.logit_bias", count, f"at most {_MAX_BIASES} entries")
    for token_id, bias in sampling.logit_bias.items():
        if not -_MAX_BIAS <= bias <= _MAX_BIAS:
            raise errors.InvalidFieldError(f"sampling.logit_bias[{token_id}]", bias, "-100 .. 100")


def _check_stops(sampling: Sampling) -> None:
    for name in ("stop", "stop_token_ids"):
        count = len(getattr(sampling, name))
        if count > _MAX_STOPS:
            raise errors.InvalidFieldError(
                f"sampling.{name}", f"{count} entries", f"at most {_MAX_STOPS} entries"
            )
    for place, stop in enumerate(sampling.stop):
        size = len(stop.encode())
        if not 1 <= size <= _MAX_STOP_BYTES:
            bound = f"1 .. {_MAX_STOP_BYTES} bytes of UTF-8"
            raise errors.InvalidFieldError(f"sampling.stop[{place}]", f"{size} bytes", bound)


def _check_int(name: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise errors.InvalidFieldError(f"sampling.{name}", value, f"{least} .. {most}")


def _check_token_ids(field: str, ids: Iterable[int], vocabulary: int) -> None:
    for place, token_id in enumerate(ids):
        if token_id >= vocabulary:
            raise errors.InvalidFieldError(
                f"{field}[{place}]",
                token_id,
                f"below {vocabulary}, the size of the model's vocabulary",
            )
