"""Messages to values and back."""

from loramux.inference.v1 import inference_pb2, sampling_pb2
from services.gateway.request import ChatMessage, ChatPrompt, Sampling, TextPrompt, TokenPrompt
from services.gateway.rpc import inference_messages as translate

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


def test_every_sampling_field_reaches_the_worker_as_it_was_sent() -> None:
    assert {field.name for field, _ in FULL.ListFields()} == set(FULL.DESCRIPTOR.fields_by_name)
    assert translate.sampling_message(translate.sampling(FULL)) == FULL


def test_unset_stays_unset() -> None:
    empty = sampling_pb2.SamplingParams()
    assert translate.sampling(empty) == Sampling()
    assert translate.sampling_message(Sampling()) == empty


def test_each_kind_of_prompt_is_told_apart() -> None:
    chat = inference_pb2.ChatPrompt(messages=[inference_pb2.ChatMessage(role="user", content="x")])
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
