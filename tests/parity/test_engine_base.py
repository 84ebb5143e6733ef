"""Without an adapter the engine equals transformers, greedy, prompts of mixed lengths in one batch."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.engine import Stepper, answer, running_engine
from tests.support.models import FAMILIES, write_tiny_base
from tests.support.paths import BASE, REPOSITORY

pytestmark = pytest.mark.parity

# Longer than the miniature's sliding windows of 16, in chunks that do not end with them.
LENGTHS = (1, 2, 7, 16, 17, 50, 90)


def generate(folder: Path, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
    """What transformers generates, each prompt by itself."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = []
    for prompt in prompts:
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        found.append(output[0, len(prompt) :].tolist())
    return found


@pytest.mark.parametrize("kernels", ["auto", "off"])
@pytest.mark.parametrize("family", FAMILIES)
async def test_a_family_in_miniature_generates_as_transformers_does(
    tmp_path: Path, family: str, kernels: str
) -> None:
    folder = write_tiny_base(tmp_path, family=family)
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(3, 384, (length,), generator=generator).tolist() for length in LENGTHS]
    async with running_engine(folder, prefill_tokens=40, kernels=kernels) as engine:
        answers = await asyncio.gather(*(answer(engine, prompt, max_tokens=30) for prompt in prompts))
    assert [one.token_ids for one in answers] == generate(folder, prompts, 30)


@pytest.mark.parametrize("use_kernels", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_in_miniature_has_the_same_logits_at_every_position(
    tmp_path: Path, family: str, use_kernels: bool
) -> None:
    folder = write_tiny_base(tmp_path, family=family)
    generator = torch.Generator().manual_seed(6)
    tokens = [torch.randint(3, 384, (length,), generator=generator).tolist() for length in (64, 40, 90)]
    found = Stepper(folder, prefill_tokens=13, use_kernels=use_kernels).logits(
        [(one, None) for one in tokens], prompt_length=20
    )
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        for one, logits in zip(tokens, found, strict=True):
            expected = model(torch.tensor([one])).logits[0, 19:]
            assert (logits - expected).abs().max() <= 1e-4


async def test_real_weights_generate_as_transformers_does() -> None:
    """Fifty prompts of 1 to 400 tokens, all in one engine."""
    text = AutoTokenizer.from_pretrained(BASE).encode((REPOSITORY / "LICENSE").read_text())
    dice = random.Random(8)
    prompts = []
    for number in range(50):
        begin = dice.randrange(len(text) - 400)
        prompts.append(text[begin : begin + (dice.randint(1, 60) if number < 40 else dice.randint(100, 400))])
    async with running_engine(BASE, max_sequences=20) as engine:
        answers = await asyncio.gather(*(answer(engine, prompt, max_tokens=16) for prompt in prompts))
    assert [one.token_ids for one in answers] == generate(BASE, prompts, 16)
