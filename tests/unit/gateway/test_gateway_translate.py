"""Messages to values and back."""

import pytest

from loramux.inference.v1 import chat_pb2, constraint_pb2, inference_pb2, sampling_pb2
from loramux.worker.v1 import worker_pb2
from services.common import errors
from services.gateway.answer import Answer, Choice, Summary
from services.gateway.billing.money import TokenPrice
from services.gateway.job import Job
from services.gateway.request import ChatMessage, ChatPrompt, Sampling, TextPrompt, TokenPrompt
from services.gateway.routes import BaseModel, Target
from services.gateway.rpc import inference_messages as translate
from services.gateway.upstream import job_messages

FULL = sampling_pb2.SamplingParams(
    max_tokens=7,
    temperature=0.1,
    top_k=40,
    top_p=0.9,
    min_p=0.05,
    repetition_penalty=1.1,
    presence_penalty=-0.3,
    frequency_penalty=0.7,
    seed=2**64 - 1,
    stop=["a", "b"],
    stop_token_ids=[3, 4],
    logit_bias={5: -1.1},
    logprobs=0,
    ignore_eos=False,
    n=2,
)


TARGET = Target(
    model="tiny",
    base=BaseModel(name="tiny", commit="c", context_length=128, price=TokenPrice(2, 2, 4)),
    adapter=None,
    context_length=128,
)


def job(sampling: Sampling) -> Job:
    return Job(
        request_id="r",
        client_request_id="",
        account="acme",
        key="k",
        target=TARGET,
        prompt=(1, 2),
        max_tokens=7,
        sampling=sampling,
    )


def test_every_sampling_field_reaches_the_worker_as_it_was_sent() -> None:
    # What nobody does yet is refused before it comes here.
    assert {field.name for field, _ in FULL.ListFields()} == set(FULL.DESCRIPTOR.fields_by_name) - {
        "min_tokens"
    }
    sent = job_messages.worker_request(job(translate.sampling(FULL))).sampling
    for field, value in FULL.ListFields():
        assert getattr(sent, field.name) == value, field.name


def test_what_was_left_out_reaches_the_worker_as_its_default() -> None:
    empty = sampling_pb2.SamplingParams()
    assert translate.sampling(empty) == Sampling()
    sent = job_messages.worker_request(job(Sampling(max_tokens=7, seed=1))).sampling
    assert (sent.temperature, sent.top_p, sent.repetition_penalty, sent.n) == (1.0, 1.0, 1.0, 1)
    assert not sent.HasField("logprobs")


UNFINISHED = [
    ("constraint", inference_pb2.GenerateRequest(constraint=constraint_pb2.Constraint(regex="a"))),
    (
        "sampling.min_tokens",
        inference_pb2.GenerateRequest(sampling=sampling_pb2.SamplingParams(min_tokens=1)),
    ),
    ("chat.tools", inference_pb2.GenerateRequest(chat=chat_pb2.ChatPrompt(tools=[chat_pb2.Tool()]))),
    (
        "chat.tool_choice",
        inference_pb2.GenerateRequest(
            chat=chat_pb2.ChatPrompt(tool_choice=chat_pb2.ToolChoice(function_name="f"))
        ),
    ),
    (
        "chat.template_arguments_json",
        inference_pb2.GenerateRequest(chat=chat_pb2.ChatPrompt(template_arguments_json="{}")),
    ),
    (
        "chat.continue_last_message",
        inference_pb2.GenerateRequest(chat=chat_pb2.ChatPrompt(continue_last_message=True)),
    ),
    (
        "chat.messages[0].tool_calls",
        inference_pb2.GenerateRequest(
            chat=chat_pb2.ChatPrompt(messages=[chat_pb2.ChatMessage(tool_call_id="x")])
        ),
    ),
]


@pytest.mark.parametrize(("field", "message"), UNFINISHED, ids=[field for field, _ in UNFINISHED])
def test_what_nobody_does_yet_is_refused_by_name(field: str, message: inference_pb2.GenerateRequest) -> None:
    with pytest.raises(errors.NotImplementedYetError) as caught:
        translate.generate_request(message)
    assert caught.value.metadata == {"field": field}


CROWDS = [
    (
        "chat.messages",
        inference_pb2.GenerateRequest(chat=chat_pb2.ChatPrompt(messages=[chat_pb2.ChatMessage()] * 1025)),
    ),
    (
        "chat.messages[0].content",
        inference_pb2.GenerateRequest(
            chat=chat_pb2.ChatPrompt(messages=[chat_pb2.ChatMessage(content=[chat_pb2.ContentPart()] * 65)])
        ),
    ),
    ("sampling.stop", inference_pb2.GenerateRequest(sampling=sampling_pb2.SamplingParams(stop=["a"] * 17))),
    (
        "sampling.stop_token_ids",
        inference_pb2.GenerateRequest(sampling=sampling_pb2.SamplingParams(stop_token_ids=[1] * 17)),
    ),
    (
        "sampling.logit_bias",
        inference_pb2.GenerateRequest(
            sampling=sampling_pb2.SamplingParams(logit_bias=dict.fromkeys(range(1025), 0.0))
        ),
    ),
    (
        "tokens.ids",
        inference_pb2.GenerateRequest(tokens=inference_pb2.TokenPrompt(ids=[1] * ((1 << 20) + 1))),
    ),
]


@pytest.mark.parametrize(("field", "message"), CROWDS, ids=[field for field, _ in CROWDS])
def test_a_crowd_is_refused_by_its_count_before_it_is_looked_at(
    field: str, message: inference_pb2.GenerateRequest
) -> None:
    with pytest.raises(errors.InvalidFieldError) as caught:
        translate.generate_request(message)
    assert caught.value.field == field
    assert "entries" in caught.value.message


def test_an_event_newer_than_this_gateway_is_passed_over_and_a_newer_number_kept() -> None:
    newer = worker_pb2.GenerateResponse.FromString(b"\xa2\x06\x02hi")  # field 100
    assert job_messages.event(newer) is None
    summary = worker_pb2.Summary(choices=[worker_pb2.Choice(finish_reason=99)])
    event = job_messages.event(worker_pb2.GenerateResponse(summary=summary))
    assert isinstance(event, Summary)
    assert event.choices == (Choice(index=0, finish_reason=99, stop=""),)
    answer = Answer(
        request_id="r",
        client_request_id="",
        model="tiny",
        version_digest="",
        choices=event.choices,
        prompt_tokens=1,
        cached_tokens=0,
        completion_tokens=0,
        price=TokenPrice(2, 2, 4),
        total=0,
        engine="",
        mode="",
        first_chunk_seconds=None,
        total_seconds=0.5,
    )
    message = translate.completion(answer)
    assert int(message.choices[0].finish_reason) == 99
    assert not message.timings.HasField("first_chunk")


def test_each_kind_of_prompt_is_told_apart() -> None:
    chat = chat_pb2.ChatPrompt(
        messages=[chat_pb2.ChatMessage(role="user", content=[chat_pb2.ContentPart(text="x")])]
    )
    messages = [
        inference_pb2.GenerateRequest(),
        inference_pb2.GenerateRequest(text=""),
        inference_pb2.GenerateRequest(tokens=inference_pb2.TokenPrompt(ids=[1, 2])),
        inference_pb2.GenerateRequest(chat=chat),
    ]
    assert [translate.generate_request(message).prompt for message in messages] == [
        None,
        TextPrompt(""),
        TokenPrompt((1, 2)),
        ChatPrompt((ChatMessage("user", "x"),)),
    ]
