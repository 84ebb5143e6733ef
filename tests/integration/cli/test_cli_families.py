"""`loramux up --base` with every family that README names, from a hub: PEFT says whether their answers are right."""

import queue
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

import loramux
from loramux.cli.embedded.base_models import chosen
from loramux.cli.embedded.embedded_services import Embedded, EmbeddedConfig, Event
from loramux.localhub import LocalHub, running
from tests.support.models import FAMILIES, write_random_adapter, write_tiny_base

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("embedded")]

PROMPT = "The quick brown fox"
NEW = 12


@dataclass(frozen=True)
class Line:
    client: loramux.SyncClient
    folder: Path


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    folder = tmp_path_factory.mktemp("families")
    hub = LocalHub(folder / "hub")
    for family in FAMILIES:
        base = write_tiny_base(folder / family, family=family)
        hub.add_repo(f"org/{family}", base)
        adapter = write_random_adapter(
            folder / f"{family}-adapter", base, target_modules="all-linear", base_name=f"org/{family}"
        )
        hub.add_repo(f"acme/{family}-adapter", adapter)
    events: queue.Queue[Event] = queue.Queue()
    with running(hub) as endpoint:
        config = EmbeddedConfig(
            data_dir=folder / "data",
            bases=[chosen(f"org/{family}") for family in FAMILIES],
            hub_endpoint=endpoint,
            worker={"THREADS": "1", "DTYPE": "float32"},
        )
        with Embedded(config, on_event=events.put) as services:
            key = services.key_of("acme", credit_pico_usd=10**12)
            with loramux.SyncClient(services.target, key) as client:
                yield Line(client, folder)
    hub.close()


def greedy(folder: Path, family: str, *, adapted: bool) -> list[int]:
    # Any: transformers' own type of it says too little.
    model: Any = AutoModelForCausalLM.from_pretrained(folder / family, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    if adapted:
        model = PeftModel.from_pretrained(model, str(folder / f"{family}-adapter"))
    model.eval()
    prompt = Tokenizer.from_file(str(folder / family / "tokenizer.json")).encode(PROMPT).ids
    with torch.inference_mode():
        out = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False)
    found: list[int] = out[0, len(prompt) :].tolist()
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_its_base_and_an_adapter_of_it_answer_as_peft_does(line: Line, family: str) -> None:
    name = chosen(f"org/{family}").name
    made = line.client.create_deployment(f"of-{name}", f"acme/{family}-adapter", base_model=name)
    line.client.wait_until_running(made.name, timeout=120)
    for model, adapted in ((name, False), (made.name, True)):
        stream = line.client.generate(model, PROMPT, temperature=0, max_tokens=NEW, ignore_eos=True)
        tokens = [token for chunk in stream for token in chunk.token_ids]
        assert tokens == greedy(line.folder, family, adapted=adapted)
