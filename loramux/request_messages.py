"""From Python arguments to request messages; the same for both clients."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypedDict

from loramux.account.v1 import account_pb2, usage_pb2
from loramux.deployment.v1 import deployment_pb2
from loramux.inference.v1 import inference_pb2, sampling_pb2


class Sampling(TypedDict, total=False):
    """How tokens are chosen. What is left out takes the server's default; None counts as left out."""

    max_tokens: int | None
    """At least 1; default: what the context leaves, at most 1,024."""
    temperature: float | None
    """0 .. 2; 0 is greedy, default 1."""
    top_k: int | None
    """Keep the k likeliest tokens; 0, the default, keeps all."""
    top_p: float | None
    """Keep the smallest set whose probabilities reach it; above 0, at most 1, the default."""
    min_p: float | None
    """Keep tokens at least this likely relative to the likeliest; 0 .. 1, default 0."""
    repetition_penalty: float | None
    """Above 0, at most 2; default 1."""
    presence_penalty: float | None
    """-2 .. 2; default 0."""
    frequency_penalty: float | None
    """-2 .. 2; default 0."""
    seed: int | None
    """Makes sampling repeatable."""
    stop: str | Sequence[str] | None
    """Generation ends before the first of these strings; at most 16. One string counts as one."""
    stop_token_ids: Sequence[int] | None
    """Generation ends at the first of these; at most 16."""
    logit_bias: Mapping[int, float] | None
    """By token id, -100 .. 100; at most 1,024 entries."""
    logprobs: int | None
    """Return each token's log probability and this many alternatives; 0 .. 20."""
    ignore_eos: bool | None
    """Go on after the model's own end-of-text token."""
    n: int | None
    """How many choices to draw, 1 .. 16; choice i is drawn with seed + i."""
    min_tokens: int | None
    """No end before so many tokens; 0 .. max_tokens, default 0."""


Message = Mapping[str, str]
"""`{"role": ..., "content": ...}`; `name` too, where speakers of one role are told apart."""


def generate(
    model: str,
    prompt: str | None,
    *,
    messages: Sequence[Message] | None,
    token_ids: Sequence[int] | None,
    client_request_id: str,
    sampling: Sampling,
) -> inference_pb2.GenerateRequest:
    """Exactly one of prompt, messages and token_ids. Raises ValueError or TypeError on what has no form."""
    if sum(one is not None for one in (prompt, messages, token_ids)) != 1:
        raise ValueError("give exactly one of prompt, messages and token_ids")
    request = inference_pb2.GenerateRequest(
        model=model, client_request_id=client_request_id, sampling=sampling_params(sampling)
    )
    if prompt is not None:
        request.text = prompt
    elif token_ids is not None:
        request.tokens.SetInParent()
        request.tokens.ids.extend(token_ids)
    else:
        request.chat.SetInParent()
        for number, message in enumerate(messages or ()):
            if not {"role", "content"} <= set(message) <= {"role", "content", "name"}:
                raise ValueError(
                    f"messages[{number}] has the keys {sorted(message)}; it must have role and content, and may have name"
                )
            turn = request.chat.messages.add(role=message["role"], name=message.get("name", ""))
            turn.content.add(text=message["content"])
    return request


def sampling_params(sampling: Sampling) -> sampling_pb2.SamplingParams:
    """Raises TypeError for a name that is no sampling field, ValueError for a value that does not fit it."""
    params = sampling_pb2.SamplingParams()
    for name, value in sampling.items():
        if name not in Sampling.__annotations__:
            raise TypeError(
                f"unknown sampling field {name!r}; known are {', '.join(Sampling.__annotations__)}"
            )
        if value is None:
            continue
        if name == "stop" and isinstance(value, str):
            # A string is a sequence of strings too, but nobody means its letters.
            value = [value]  # noqa: PLW2901
        try:
            params.MergeFrom(sampling_pb2.SamplingParams(**{name: value}))  # type: ignore[arg-type]  # checked by protobuf
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} is {value!r}, which does not fit: {error}") from None
    return params


def create_deployment(
    deployment_id: str,
    hub_repo: str,
    revision: str,
    hub_token: str,
    *,
    base_model: str,
    accept_base_name: bool,
    use_base_template: bool,
    idempotency_key: str,
) -> deployment_pb2.CreateDeploymentRequest:
    """With an idempotency key of its own where none is given, so that grpc's retries make no second one."""
    return deployment_pb2.CreateDeploymentRequest(
        deployment_id=deployment_id,
        hub_repo=hub_repo,
        revision=revision,
        hub_token=hub_token,
        base_model=base_model,
        accept_base_name=accept_base_name,
        use_base_template=use_base_template,
        idempotency_key=idempotency_key or uuid.uuid4().hex,
    )


def create_account(
    account_id: str,
    credit_pico_usd: int,
    *,
    max_in_flight: int | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    idempotency_key: str,
) -> account_pb2.CreateAccountRequest:
    """A limit that is None takes the operator's default; the idempotency key as for deployments."""
    return account_pb2.CreateAccountRequest(
        account_id=account_id,
        credit_pico_usd=credit_pico_usd,
        idempotency_key=idempotency_key or uuid.uuid4().hex,
        limits=account_pb2.Limits(
            max_in_flight=max_in_flight,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        ),
    )


def grant_credit(account: str, amount_pico_usd: int, idempotency_key: str) -> account_pb2.GrantCreditRequest:
    """With an idempotency key of its own where none is given, so that grpc's retries grant nothing twice."""
    return account_pb2.GrantCreditRequest(
        account=account,
        amount_pico_usd=amount_pico_usd,
        idempotency_key=idempotency_key or uuid.uuid4().hex,
    )


def create_key(account: str, description: str, idempotency_key: str) -> account_pb2.CreateKeyRequest:
    """With an idempotency key of its own where none is given, so that grpc's retries make no second key."""
    return account_pb2.CreateKeyRequest(
        account=account, description=description, idempotency_key=idempotency_key or uuid.uuid4().hex
    )


def list_usage(account: str, model: str, page_size: int) -> account_pb2.ListUsageRequest:
    """An empty model is any."""
    only = usage_pb2.UsageFilter(model=model) if model else None
    return account_pb2.ListUsageRequest(account=account, filter=only, page_size=page_size)


def get_bill(account: str, start: datetime | None, end: datetime | None) -> account_pb2.GetBillRequest:
    """Times without a zone are UTC, as protobuf takes them."""
    request = account_pb2.GetBillRequest(account=account)
    if start is not None:
        request.start_time.FromDatetime(start)
    if end is not None:
        request.end_time.FromDatetime(end)
    return request
