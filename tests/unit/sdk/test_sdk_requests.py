"""From arguments to messages."""

import json
import subprocess
import sys

import pytest

from loramux import request_messages, retry
from loramux.account.v1 import account_pb2
from loramux.deployment.v1 import deployment_pb2
from loramux.inference.v1 import inference_pb2
from loramux.request_messages import Sampling


def build(**given: object) -> inference_pb2.GenerateRequest:
    whole: dict[str, object] = {"prompt": None, "messages": None, "token_ids": None, "sampling": {}, **given}
    prompt = whole.pop("prompt")
    return request_messages.generate("m", prompt, client_request_id="", **whole)  # type: ignore[arg-type]


def test_a_prompt_is_text_tokens_or_messages() -> None:
    assert build(prompt="hi").text == "hi"
    assert list(build(token_ids=[1, 2]).tokens.ids) == [1, 2]
    chat = build(messages=[{"role": "user", "content": "hi", "name": "anna"}]).chat
    assert [(one.role, one.name) for one in chat.messages] == [("user", "anna")]
    assert [part.text for part in chat.messages[0].content] == ["hi"]


def test_an_empty_prompt_is_sent_as_such() -> None:
    """The server refuses it with a typed error; the SDK does not guess its bounds."""
    assert build(prompt="").WhichOneof("prompt") == "text"
    assert build(token_ids=[]).WhichOneof("prompt") == "tokens"
    assert build(messages=[]).WhichOneof("prompt") == "chat"


@pytest.mark.parametrize("given", [{}, {"prompt": "a", "token_ids": [1]}])
def test_anything_but_one_prompt_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        build(**given)


def test_a_message_with_other_keys_is_refused_by_its_place() -> None:
    with pytest.raises(ValueError, match=r"messages\[1\].*role and content"):
        build(messages=[{"role": "user", "content": "a"}, {"role": "user", "text": "b"}])


def test_what_is_left_out_stays_unset() -> None:
    params = request_messages.sampling_params({"temperature": 0.0, "top_k": None})
    assert params.HasField("temperature")
    assert not params.HasField("top_k")


def test_every_sampling_field_of_the_contract_can_be_given() -> None:
    fields = {field.name for field in build(prompt="").sampling.DESCRIPTOR.fields}
    assert set(Sampling.__annotations__) == fields
    full: Sampling = {
        "max_tokens": 1,
        "temperature": 0.5,
        "top_k": 1,
        "top_p": 0.5,
        "min_p": 0.25,
        "repetition_penalty": 1.5,
        "presence_penalty": -1.0,
        "frequency_penalty": 1.0,
        "seed": 2**63,
        "stop": ["a", "b"],
        "stop_token_ids": [1],
        "logit_bias": {5: -100.0},
        "logprobs": 2,
        "ignore_eos": True,
        "n": 3,
        "min_tokens": 1,
    }
    params = request_messages.sampling_params(full)
    assert {field.name for field, _ in params.ListFields()} == fields
    assert list(params.stop) == ["a", "b"]
    assert dict(params.logit_bias) == {5: -100.0}


def test_one_stop_string_is_one_and_not_its_letters() -> None:
    assert list(request_messages.sampling_params({"stop": "END"}).stop) == ["END"]


@pytest.mark.parametrize(
    ("name", "value"), [("max_tokens", "many"), ("top_k", 2**40), ("seed", -1), ("logit_bias", [1])]
)
def test_a_value_with_no_form_on_the_wire_is_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name} is"):
        request_messages.sampling_params({name: value})  # type: ignore[misc]


def test_an_unknown_sampling_field_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="temprature"):
        request_messages.sampling_params({"temprature": 1.0})  # type: ignore[typeddict-unknown-key]


def test_only_calls_that_are_safe_to_repeat_are_repeated() -> None:
    services = {
        service.full_name: {method.name for method in service.methods}
        for file in (inference_pb2, deployment_pb2, account_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
    }
    [config] = json.loads(retry.service_config())["methodConfig"]
    repeated = {(one["service"], one["method"]) for one in config["name"]}
    assert all(method in services[service] for service, method in repeated)
    assert {method for _, method in repeated}.isdisjoint(
        {"UpdateDeployment", "DeleteDeployment", "RollBackDeployment", "UpdateAccount", "RevokeKey"}
    )


def test_importing_the_clients_needs_only_the_sdks_own_dependencies() -> None:
    code = (
        "import sys\n"
        "import loramux.client, loramux.sync_client, loramux.errors\n"
        "tops = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(tops & {'typer', 'rich', 'starlette', 'uvicorn', 'pydantic', 'sqlalchemy',"
        " 'huggingface_hub', 'torch', 'services', 'structlog'}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
