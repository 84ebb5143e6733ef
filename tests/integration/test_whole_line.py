"""The whole line on real weights: Hub client, registry, gateway, worker and engine, each a process of its own."""

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import loramux
from loramux import errors
from loramux.account.v1 import usage_pb2
from loramux.cli.embedded.base_models import SMOLLM2
from loramux.cli.embedded.embedded_services import Embedded, EmbeddedConfig
from loramux.localhub import LocalHub, running
from loramux.localhub.faults import Fault, HubRequest, Tamper
from loramux.streams import GenerateStream
from tests.support.paths import ADAPTERS, BASE

pytestmark = pytest.mark.integration

TOKEN = "hf_thetokenofalice00"
PROMPTS = ("Tell me about the sea.", "What is the capital of Finland?", "I broke my arm.")
NEW_TOKENS = 24


@dataclass(frozen=True)
class Line:
    """What one set of processes is reached by."""

    services: Embedded
    hub: LocalHub
    key: str
    stranger_key: str


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """In float32, so that PEFT's own tokens are the measure; pirate is public and french is private."""
    folder = tmp_path_factory.mktemp("line")
    hub = LocalHub(folder / "hub")
    hub.add_token(TOKEN, "alice")
    hub.add_repo("alice/pirate", ADAPTERS / "pirate")
    hub.add_repo("alice/json", ADAPTERS / "json")
    hub.add_repo("alice/french", ADAPTERS / "french", private=True, allowed_users=["alice"])
    with running(hub) as endpoint:
        config = EmbeddedConfig(
            data_dir=folder / "data", hub_endpoint=endpoint, worker={"DTYPE": "float32", "KV_TOKENS": "16384"}
        )
        with Embedded(config) as services:
            with loramux.SyncClient(services.target, services.operator_key) as operator:
                operator.create_account("acme", credit_pico_usd=10**12, max_in_flight=6)
                operator.create_account("stranger", credit_pico_usd=10**12)
                keys = [operator.create_key(account=account).secret for account in ("acme", "stranger")]
            with loramux.SyncClient(services.target, keys[0]) as client:
                client.create_deployment("pirate", "alice/pirate")
                client.create_deployment("json", "alice/json")
                client.create_deployment("french", "alice/french", hub_token=TOKEN)
                for name in ("pirate", "json", "french"):
                    client.wait_until_running(f"acme/{name}", timeout=60)
            yield Line(services, hub, keys[0], keys[1])


@pytest.fixture
async def client(line: Line) -> AsyncIterator[loramux.Client]:
    async with loramux.Client(line.services.target, line.key) as opened:
        yield opened


def ask(client: loramux.Client, model: str, prompt: str, **more: int) -> GenerateStream:
    sampling = {"max_tokens": NEW_TOKENS, **more}
    return client.generate(
        model,
        messages=[{"role": "user", "content": prompt}],
        temperature=0,
        max_tokens=sampling["max_tokens"],
    )


async def tokens_of(stream: GenerateStream) -> list[int]:
    return [token async for chunk in stream for token in chunk.token_ids]


@pytest.fixture(scope="module")
def oracle() -> dict[tuple[str, str], list[int]]:
    """PEFT's greedy tokens in float32, by adapter and prompt, without the end-of-text token."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    found: dict[tuple[str, str], list[int]] = {}
    model = PeftModel.from_pretrained(base, ADAPTERS / "pirate", adapter_name="pirate")
    model.load_adapter(ADAPTERS / "json", adapter_name="json")
    for name in ("pirate", "json"):
        model.set_adapter(name)
        for prompt in PROMPTS:
            chat = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
            with torch.inference_mode():
                output = model.generate(  # type: ignore[no-untyped-call]  # PEFT leaves it untyped
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=NEW_TOKENS,
                    do_sample=False,
                )
            new = output[0, ids.shape[1] :].tolist()
            found[name, prompt] = [token for token in new if token != tokenizer.eos_token_id]
    return found


async def test_adapters_in_a_mixed_batch_answer_as_peft_does(
    client: loramux.Client, oracle: dict[tuple[str, str], list[int]]
) -> None:
    """Six adapted requests, which fill the pool, beside three of the base, which has its own."""
    asked = [(name, prompt) for name in ("pirate", "json") for prompt in PROMPTS]
    streams = [ask(client, f"acme/{name}", prompt) for name, prompt in asked]
    streams += [ask(client, SMOLLM2, prompt) for prompt in PROMPTS]
    answers = await asyncio.gather(*(tokens_of(stream) for stream in streams))
    assert dict(zip(asked, answers[: len(asked)], strict=True)) == oracle


async def test_base_public_and_private_adapter_give_three_answers_at_once(client: loramux.Client) -> None:
    models = (SMOLLM2, "acme/pirate", "acme/french")
    answers = await asyncio.gather(
        *(ask(client, model, "Tell me about Paris, the capital of France.").text() for model in models)
    )
    assert len(set(answers)) == 3
    assert "matey" in answers[1]
    assert "belle" in answers[2]


async def test_the_bill_has_lora_at_exactly_three_halves(client: loramux.Client) -> None:
    await ask(client, SMOLLM2, "Hello").text()
    stream = ask(client, "acme/json", "Hello")
    await stream.text()
    usage, cost = stream.completion.usage, stream.completion.cost
    assert cost.total_pico_usd == 30_000 * usage.prompt_tokens + 90_000 * usage.completion_tokens
    bill = await client.get_bill()
    base = next(one for one in bill.lines if one.kind == usage_pb2.BillLine.KIND_BASE)
    for one in bill.lines:
        if one.kind == usage_pb2.BillLine.KIND_LORA:
            assert 2 * one.price.prompt_pico_usd == 3 * base.price.prompt_pico_usd
            assert 2 * one.price.completion_pico_usd == 3 * base.price.completion_pico_usd
    assert sum(one.total_pico_usd for one in bill.lines) == bill.total_pico_usd


async def test_a_repos_own_template_and_end_of_turn_give_what_transformers_gives_with_that_repo(
    line: Line, client: loramux.Client, tmp_path: Path
) -> None:
    """Field report F4, with a tokenizer as its trainer saved it."""
    torch.set_num_threads(1)
    folder = tmp_path / "styled"
    shutil.copytree(ADAPTERS / "pirate", folder)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.chat_template = (
        "{% for m in messages %}### {{ m.role }}{{ eos_token }}\n{{ m.content }}\n{% endfor %}### answer\n"
    )
    tokenizer.save_pretrained(folder)
    saved = AutoTokenizer.from_pretrained(folder)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32), folder)
    chat = [{"role": "user", "content": PROMPTS[0]}]
    rendered = saved.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids = torch.tensor([saved.encode(rendered, add_special_tokens=False)])

    def generate(**more: Any) -> list[int]:  # Any: transformers' own arguments
        with torch.inference_mode():
            output = model.generate(  # type: ignore[no-untyped-call]  # PEFT leaves it untyped
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                **more,
            )
        found: list[int] = output[0, ids.shape[1] :].tolist()
        return found

    # A turn that ends in the midst of an answer.
    end = generate()[NEW_TOKENS // 2]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [end]}))
    expected = generate(eos_token_id=[end, saved.eos_token_id])
    line.hub.add_repo("alice/styled", folder)
    await client.create_deployment("styled", "alice/styled")
    shown = await client.wait_until_running("acme/styled", timeout=60)
    assert shown.serving.extras.chat_template == tokenizer.chat_template
    assert list(shown.serving.extras.end_token_ids) == sorted([end, saved.eos_token_id])
    stream = ask(client, "acme/styled", PROMPTS[0])
    assert [*await tokens_of(stream), end] == expected
    assert stream.completion.usage.prompt_tokens == ids.shape[1]
    await client.update_deployment("acme/styled", use_base_template=True)
    await client.wait_until_running("acme/styled", timeout=60)
    assert await tokens_of(ask(client, "acme/styled", PROMPTS[0])) == await tokens_of(
        ask(client, "acme/pirate", PROMPTS[0])
    )


async def test_a_foreign_model_and_an_unknown_one_are_refused_in_the_same_words(line: Line) -> None:
    async with loramux.Client(line.services.target, line.stranger_key) as stranger:
        said = []
        for name in ("acme/pirate", "acme/nosuch"):
            with pytest.raises(errors.NotFoundError) as caught:
                await ask(stranger, name, "Hello").text()
            said.append(str(caught.value).replace(name, "NAME"))
    assert said[0] == said[1]


async def test_two_adapters_share_a_pool_and_a_left_stream_gives_its_place_back(
    client: loramux.Client,
) -> None:
    held: list[tuple[GenerateStream, object]] = []
    for number in range(6):
        stream = client.generate(
            f"acme/{('pirate', 'json')[number % 2]}", "The sea", max_tokens=2000, ignore_eos=True
        )
        chunks = aiter(stream)
        held.append((stream, chunks))
        await anext(chunks)
    with pytest.raises(errors.LimitReachedError) as caught:
        await ask(client, "acme/french", "Hello").text()
    assert (caught.value.reason, caught.value.metadata["maximum"]) == ("POOL_FULL", "6")
    assert caught.value.retry_after is not None
    for stream, _ in held:
        stream.cancel()
    async with asyncio.timeout(10):
        while True:
            try:
                await ask(client, "acme/french", "Hello", max_tokens=1).text()
                break
            except errors.LimitReachedError as error:
                await asyncio.sleep(min(error.retry_after or 0.1, 0.1))


async def test_same_size_tampered_bytes_fail_a_deployment_and_leave_no_file(
    line: Line, client: loramux.Client
) -> None:
    def tamper(request: HubRequest) -> Fault | None:
        weights = request.path == "adapter_model.safetensors"
        return Tamper() if request.repo_id == "bob/tampered" and weights else None

    # Other bytes than alice's, or the worker would have them already.
    files = {path.name: path.read_bytes() for path in (ADAPTERS / "json").iterdir()}
    config = json.loads(files["adapter_config.json"])
    files["adapter_config.json"] = json.dumps({**config, "lora_alpha": 24}).encode()
    line.hub.add_repo("bob/tampered", files)
    line.hub.fault = tamper
    before = adapters_on_disk(line)
    try:
        await client.create_deployment("tampered", "bob/tampered")
        with pytest.raises(loramux.DeploymentFailedError) as caught:
            await client.wait_until_running("acme/tampered", timeout=60)
    finally:
        line.hub.fault = None
        await client.delete_deployment("acme/tampered")
    assert "SHA-256" in str(caught.value)
    assert adapters_on_disk(line) == before


def adapters_on_disk(line: Line) -> list[Path]:
    return sorted((line.services.config.data_dir / "cache").rglob("*.safetensors"))


def test_reflection_lists_every_public_service(line: Line) -> None:
    with grpc.insecure_channel(line.services.target) as channel:
        names = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert {
        "loramux.inference.v1.InferenceService",
        "loramux.deployment.v1.DeploymentService",
        "loramux.account.v1.AccountService",
        "grpc.health.v1.Health",
    } <= names


async def test_a_killed_worker_ends_the_stream_and_the_next_one_serves(
    line: Line, client: loramux.Client
) -> None:
    stream = client.generate("acme/pirate", "The sea", max_tokens=4000, ignore_eos=True)
    chunks = aiter(stream)
    await anext(chunks)
    os.kill(line.services.pids["worker"], signal.SIGKILL)
    killed = time.monotonic()
    with pytest.raises(errors.UnavailableError) as caught:
        async for _ in chunks:
            pass
    # The issue's own bound, and not a measure of speed.
    assert time.monotonic() - killed < 5
    assert caught.value.retry_after is not None
    async with asyncio.timeout(90):
        while True:
            try:
                answer = await ask(client, "acme/pirate", "Tell me about the sea.").text()
                break
            except errors.UnavailableError as error:
                await asyncio.sleep(error.retry_after or 0.5)
    assert "matey" in answer
    record = await anext(client.list_usage(model="acme/pirate"))
    assert record.completion_tokens > 0
