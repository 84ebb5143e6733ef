"""What an adapter's repo brings beside the adapter, on a request's way through a real gateway."""

from pathlib import Path

import pytest

from loramux import errors as sdk
from loramux.deployment.v1 import deployment_pb2
from loramux.fleet.v1 import routing_pb2
from loramux.inference.v1 import chat_pb2, inference_pb2, sampling_pb2
from loramux.worker.v1 import worker_pb2
from tests.support.gateway import Rig, answer, eventually, refusal, rig
from tests.support.gateway_registry import ScriptedRegistry, base_route, deployment_route
from tests.support.gateway_tokenizer import END, byte_tokenizer

MODEL = "acme/styled"
OWN, ENDS, BOMB, UNKNOWN = ("1" * 64, "2" * 64, "3" * 64, "4" * 64)
EXTRAS = {
    OWN: deployment_pb2.RepoExtras(
        chat_template="{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %} ->",
        special_tokens={"bos_token": "</s>"},
        end_token_ids=[10, 33],
    ),
    ENDS: deployment_pb2.RepoExtras(end_token_ids=[10]),
    BOMB: deployment_pb2.RepoExtras(chat_template="{{ 'a' * 10 ** 12 }}"),
}


def scripted(extras_sha256: str) -> ScriptedRegistry:
    return ScriptedRegistry(
        base_models=[base_route(vocabulary=258)],
        deployments=[deployment_route(MODEL, extras_sha256=extras_sha256)],
        extras=dict(EXTRAS),
    )


async def ask(
    line: Rig, *, role: str = "pirate", model: str = MODEL, **sampling: object
) -> worker_pb2.GenerateRequest:
    """Send a conversation; what the worker was asked."""
    member = await line.member()
    message = chat_pb2.ChatMessage(role=role, content=[chat_pb2.ContentPart(text="hi")])
    params = sampling_pb2.SamplingParams(max_tokens=2, **sampling)  # type: ignore[arg-type]  # named by the tests
    request = inference_pb2.GenerateRequest(
        model=model, chat=chat_pb2.ChatPrompt(messages=[message]), sampling=params
    )
    await answer(line.inference.Generate(request, metadata=member.metadata))
    return line.worker.requests[-1]


async def asked_for(line: Rig, *digests: str) -> None:
    async def done() -> bool:
        return line.registry.extras_asked == list(digests)

    await eventually(done)


def text_of(asked: worker_pb2.GenerateRequest) -> str:
    return str(byte_tokenizer().decode(list(asked.prompt_token_ids), skip_special_tokens=False))


async def test_a_chat_is_rendered_with_the_repos_template_and_ends_where_the_repo_says(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, registry=scripted(OWN)) as line:
        asked = await ask(line, stop_token_ids=[33, 7])
        assert text_of(asked) == "</s>[pirate] hi ->"
        assert asked.prompt_token_ids[0] == END
        assert list(asked.sampling.stop_token_ids) == [33, 7, 10]
        assert list((await ask(line, ignore_eos=True)).sampling.stop_token_ids) == []
        # Asked for once, and not by the first request.
        assert line.registry.extras_asked == [OWN]
        assert text_of(await ask(line, role="user", model="tiny")).startswith("<s>user:hi")


async def test_the_bases_template_stands_where_the_repo_has_end_tokens_alone(tmp_path: Path) -> None:
    async with rig(tmp_path, registry=scripted(ENDS)) as line:
        error = await refusal(ask(line))
        assert isinstance(error, sdk.InvalidArgumentError)
        assert "unknown role pirate" in str(error)
        asked = await ask(line, role="user")
        assert text_of(asked).startswith("<s>user:hi")
        assert list(asked.sampling.stop_token_ids) == [10]


async def test_another_version_brings_its_own_and_one_without_brings_none(tmp_path: Path) -> None:
    async with rig(tmp_path, registry=scripted(OWN)) as line:
        await ask(line)
        line.registry.send(
            routing_pb2.WatchRoutesResponse(deployments=[deployment_route(MODEL, extras_sha256=ENDS)])
        )
        await asked_for(line, OWN, ENDS)
        assert list((await ask(line, role="user")).sampling.stop_token_ids) == [10]


async def test_it_serves_on_while_the_registry_is_away(tmp_path: Path) -> None:
    async with rig(tmp_path, registry=scripted(OWN)) as line:
        await asked_for(line, OWN)
        await line.registry.stop()
        assert text_of(await ask(line)) == "</s>[pirate] hi ->"


async def test_a_template_that_would_stop_a_gateway_stops_nobody(tmp_path: Path) -> None:
    async with rig(tmp_path, registry=scripted(BOMB)) as line:
        error = await refusal(ask(line))
        assert isinstance(error, sdk.FailedPreconditionError)
        assert error.reason == "CHAT_TEMPLATE_TOO_COSTLY"
        assert "use_base_template" in str(error)
        assert text_of(await ask(line, role="user", model="tiny")).startswith("<s>user:hi")
        assert [one.model for one in await line.usage()] == ["tiny"]


async def test_extras_that_the_registry_does_not_hand_out_are_asked_for_again(tmp_path: Path) -> None:
    async with rig(tmp_path, registry=scripted(UNKNOWN)) as line:
        error = await refusal(ask(line))
        assert isinstance(error, sdk.UnavailableError)
        assert error.reason == "REPO_EXTRAS_UNAVAILABLE"
        line.registry.extras[UNKNOWN] = EXTRAS[OWN]
        assert text_of(await ask(line)) == "</s>[pirate] hi ->"


@pytest.mark.parametrize("field", ["text", "tokens"])
async def test_a_prompt_that_is_no_chat_needs_no_template(tmp_path: Path, field: str) -> None:
    async with rig(tmp_path, registry=scripted(BOMB)) as line:
        member = await line.member()
        request = inference_pb2.GenerateRequest(
            model=MODEL, sampling=sampling_pb2.SamplingParams(max_tokens=1)
        )
        if field == "text":
            request.text = "x"
        else:
            request.tokens.ids.append(7)
        await answer(line.inference.Generate(request, metadata=member.metadata))
