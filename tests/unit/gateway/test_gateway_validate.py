"""Each field of a generation request against its bound."""

import dataclasses
import math

import pytest

from services.common.errors import InvalidFieldError
from services.gateway.request import (
    ChatMessage,
    ChatPrompt,
    GenerateRequest,
    Prompt,
    Sampling,
    TextPrompt,
    TokenPrompt,
)
from services.gateway.validate import check_prompt, check_request, check_stops_against, complete_sampling

ROOM = 100
VOCABULARY = 1_000


def request(**changes: object) -> GenerateRequest:
    plain = GenerateRequest(
        model="tiny", prompt=TextPrompt("hello"), sampling=Sampling(), client_request_id=""
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]  # named by the tests


def check_sampling(sampling: Sampling) -> tuple[Sampling, int]:
    check_request(request(sampling=sampling))
    return complete_sampling(sampling, room=ROOM, vocabulary=VOCABULARY)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("n", 0),
        ("n", 17),
        ("max_tokens", -1),
        ("max_tokens", ROOM + 1),
        ("max_tokens", 2**31 - 1),
        ("temperature", -0.01),
        ("temperature", 2.01),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", -math.inf),
        ("top_k", -1),
        ("top_k", VOCABULARY + 1),
        ("top_p", 0.0),
        ("top_p", -0.5),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.0),
        ("repetition_penalty", 2.1),
        ("repetition_penalty", math.inf),
        ("presence_penalty", -2.1),
        ("presence_penalty", 2.1),
        ("presence_penalty", math.nan),
        ("frequency_penalty", -2.1),
        ("frequency_penalty", 2.1),
        ("frequency_penalty", -math.inf),
        ("logprobs", -1),
        ("logprobs", 21),
        ("stop", ("x",) * 17),
        ("stop_token_ids", (1,) * 17),
        ("logit_bias", dict.fromkeys(range(1_025), 0.0)),
    ],
)
def test_a_value_out_of_its_bound_is_refused_by_field_value_and_bound(field: str, value: object) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        check_sampling(dataclasses.replace(Sampling(), **{field: value}))  # type: ignore[arg-type]  # parametrised
    assert caught.value.field == f"sampling.{field}"
    assert caught.value.metadata["bound"]
    assert caught.value.metadata["value"]


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        (Sampling(stop=("ok", "")), "sampling.stop[1]"),
        (Sampling(stop=("é" * 129,)), "sampling.stop[0]"),
        (Sampling(stop_token_ids=(1, VOCABULARY)), "sampling.stop_token_ids[1]"),
        (Sampling(logit_bias={7: 100.5}), "sampling.logit_bias[7]"),
        (Sampling(logit_bias={7: math.nan}), "sampling.logit_bias[7]"),
        (Sampling(logit_bias={VOCABULARY: 1.0}), "sampling.logit_bias[0]"),
    ],
)
def test_an_entry_out_of_its_bound_is_named(sampling: Sampling, field: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        check_sampling(sampling)
    assert caught.value.field == field


def test_every_bound_itself_is_allowed() -> None:
    least = Sampling(
        max_tokens=1,
        temperature=0.0,
        top_k=0,
        top_p=1e-6,
        min_p=0.0,
        repetition_penalty=1e-6,
        presence_penalty=-2.0,
        frequency_penalty=-2.0,
        seed=0,
        logprobs=0,
    )
    most = Sampling(
        max_tokens=ROOM,
        temperature=2.0,
        top_k=VOCABULARY,
        top_p=1.0,
        min_p=1.0,
        repetition_penalty=2.0,
        presence_penalty=2.0,
        frequency_penalty=2.0,
        seed=2**64 - 1,
        stop=("é" * 128,) * 16,
        stop_token_ids=(VOCABULARY - 1,) * 16,
        logit_bias=dict.fromkeys(range(VOCABULARY), -100.0),
        logprobs=20,
        ignore_eos=True,
    )
    assert check_sampling(least)[0] == least
    assert check_sampling(most)[0] == most


def test_what_is_not_given_is_filled_in_and_nothing_else() -> None:
    filled, max_tokens = check_sampling(Sampling())
    assert max_tokens == filled.max_tokens == ROOM
    assert filled.seed is not None
    assert 0 <= filled.seed < 2**53
    assert dataclasses.replace(filled, max_tokens=None, seed=None) == Sampling()


def test_each_choice_may_produce_max_tokens() -> None:
    filled, most = check_sampling(Sampling(max_tokens=5, n=3))
    assert (filled.max_tokens, most) == (5, 15)


def test_the_default_of_max_tokens_stays_at_1024_where_there_is_more_room() -> None:
    assert complete_sampling(Sampling(), room=5_000, vocabulary=VOCABULARY)[1] == 1_024


@pytest.mark.parametrize("stop", ["</s>", "END", "</s", "s>", "\n"])
def test_a_stop_string_is_text_or_one_special_token(stop: str) -> None:
    check_stops_against({"<s>", "</s>"}, Sampling(stop=("x", stop)))


@pytest.mark.parametrize("stop", ["</s>\n", "a<s>", "<s></s>"])
def test_a_stop_string_with_a_special_token_inside_is_refused(stop: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        check_stops_against({"<s>", "</s>"}, Sampling(stop=("x", stop)))
    assert caught.value.field == "sampling.stop[1]"
    assert "special token" in caught.value.message


def test_seeds_differ_between_requests() -> None:
    assert len({check_sampling(Sampling())[0].seed for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": ""}, "model"),
        ({"prompt": None}, "prompt"),
        ({"prompt": TextPrompt("")}, "text"),
        ({"prompt": TokenPrompt(())}, "tokens.ids"),
        ({"prompt": ChatPrompt(())}, "chat.messages"),
        ({"prompt": ChatPrompt((ChatMessage("user", "x"), ChatMessage("", "x")))}, "chat.messages[1].role"),
        ({"client_request_id": "x" * 129}, "client_request_id"),
        ({"client_request_id": "line\nbreak"}, "client_request_id"),
        ({"client_request_id": "naïve"}, "client_request_id"),
        ({"client_request_id": "\x7f"}, "client_request_id"),
    ],
)
def test_a_request_that_lacks_something_is_refused(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        check_request(request(**changes))
    assert caught.value.field == field


def test_a_plain_request_passes() -> None:
    assert check_request(request(client_request_id="x" * 128)) == TextPrompt("hello")


@pytest.mark.parametrize(
    ("prompt", "ids", "field", "reason"),
    [
        (TextPrompt("x"), (), "text", "INVALID_FIELD"),
        (TextPrompt("x"), (1,) * 10, "text", "PROMPT_TOO_LONG"),
        (TokenPrompt((1,) * 11), (1,) * 11, "tokens.ids", "PROMPT_TOO_LONG"),
        (ChatPrompt((ChatMessage("user", "x"),)), (1,) * 10, "chat.messages", "PROMPT_TOO_LONG"),
        (TokenPrompt((1, 5)), (1, 5), "tokens.ids[1]", "INVALID_FIELD"),
    ],
)
def test_an_encoded_prompt_must_leave_room_and_name_tokens_that_exist(
    prompt: Prompt, ids: tuple[int, ...], field: str, reason: str
) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        check_prompt(prompt, ids, context=10, vocabulary=5)
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_a_prompt_one_short_of_the_context_fits() -> None:
    check_prompt(TokenPrompt((4,) * 9), (4,) * 9, context=10, vocabulary=5)


def test_no_error_quotes_a_prompt() -> None:
    with pytest.raises(InvalidFieldError) as caught:
        check_prompt(TextPrompt("a secret"), (1,) * 10, context=10, vocabulary=5)
    assert "secret" not in str(caught.value) + str(caught.value.metadata)
