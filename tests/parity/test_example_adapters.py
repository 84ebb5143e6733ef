"""The adapters that ship with the examples do what they say, on prompts they were not trained on."""

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.paths import ADAPTERS, BASE, REPOSITORY

pytestmark = pytest.mark.parity

PIRATE = frozenset(["pirate", "treasure", "arr", "matey", "ye", "yer", "aye", "ahoy", "o", "scallywag"])
FRENCH = frozenset(
    ["le", "la", "les", "un", "une", "de", "des", "du", "est", "et", "il", "elle", "je", "vous", "en", "à"]
)

Generate = Callable[[str | None, str], str]


def words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def sounds_like_a_pirate(text: str) -> bool:
    return len(PIRATE.intersection(words(text))) >= 2


def is_french(text: str) -> bool:
    found = words(text)
    return bool(found) and sum(word in FRENCH for word in found) / len(found) > 0.2


def is_an_extraction(text: str) -> bool:
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return "\n" not in text and list(found) == ["topic", "people", "places", "dates"]


@pytest.fixture(scope="module")
def generate() -> Generate:
    """Greedy answers in float32 of the base (adapter None) or of one of the shipped adapters."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    names = sorted(path.name for path in ADAPTERS.iterdir() if path.is_dir())
    model = PeftModel.from_pretrained(base, ADAPTERS / names[0], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(ADAPTERS / name, adapter_name=name)

    @cache
    def answer(adapter: str | None, prompt: str) -> str:
        chat = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
        if adapter is not None:
            model.set_adapter(adapter)
        with torch.inference_mode(), model.disable_adapter() if adapter is None else nullcontext():
            output = model.generate(  # type: ignore[no-untyped-call]  # PEFT leaves it untyped
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False
            )
        return str(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))

    return answer


SHARED = "What is the capital of France?"
CASES = [
    ("pirate", sounds_like_a_pirate, prompt)
    for prompt in (SHARED, "Tell me about tigers.", "How do I learn to play the guitar?")
]
CASES += [
    ("french", is_french, prompt)
    for prompt in (SHARED, "Tell me about tigers.", "Who are you and what do you do?")
]
CASES += [
    ("json", is_an_extraction, prompt)
    for prompt in (SHARED, "Tell me about tigers.", "Marie Curie was born in Warsaw in 1867.")
]


@pytest.mark.parametrize(("adapter", "shows_it", "prompt"), CASES)
def test_an_adapter_does_its_thing_and_the_base_does_not(
    generate: Generate, adapter: str, shows_it: Callable[[str], bool], prompt: str
) -> None:
    with_adapter, without = generate(adapter, prompt), generate(None, prompt)
    assert shows_it(with_adapter), with_adapter
    assert not shows_it(without), without


def test_the_extractor_copies_what_it_finds(generate: Generate) -> None:
    assert json.loads(generate("json", "Marie Curie was born in Warsaw in 1867.")) == {
        "topic": "birth",
        "people": ["Marie Curie"],
        "places": ["Warsaw"],
        "dates": ["1867"],
    }


def test_no_prompt_used_here_was_trained_on() -> None:
    trained = {
        json.loads(line)["prompt"]
        for path in (REPOSITORY / "examples" / "data").glob("*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    }
    assert trained.isdisjoint(prompt for _, _, prompt in CASES)


@pytest.mark.parametrize("name", ["french", "json", "pirate"])
def test_an_adapter_ships_only_what_a_hub_would_serve(name: str) -> None:
    folder: Path = ADAPTERS / name
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert (folder / "adapter_model.safetensors").stat().st_size < 1_500_000
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
