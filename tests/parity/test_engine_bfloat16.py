"""What production computes in, beside float32: on the real base, with adapters that were trained, on several threads."""

import pytest
import torch
from transformers import AutoTokenizer

from services.worker.engine.interface import AdapterFiles
from tests.support.engine import Stepper
from tests.support.paths import ADAPTERS, BASE

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]

PROMPT = 8
TEXTS = (
    "The sea was calm that morning, and the old captain told us that it would not stay so for long. By noon",
    "def mean(numbers):\n    total = 0\n    for number in numbers:\n        total += number\n    return total /",
    "<|im_start|>user\nWhat is the capital of Finland?<|im_end|>\n<|im_start|>assistant\nHelsinki is the capital",
)


def log_probabilities(dtype: str, *, use_kernels: bool) -> torch.Tensor:
    """[places, vocabulary], of every text's every position, through the base and two adapters in one batch."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    stepper = Stepper(BASE, dtype=dtype, use_kernels=use_kernels, threads=2)  # type: ignore[arg-type]  # by name
    adapters = [
        None,
        *(stepper.loader.load(AdapterFiles(name, ADAPTERS / name)) for name in ("pirate", "json")),
    ]
    sequences = [(tokenizer.encode(text), adapter) for text in TEXTS for adapter in adapters]
    found = stepper.logits(sequences, prompt_length=PROMPT)
    return torch.cat(found).float().log_softmax(-1)


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return log_probabilities("float32", use_kernels=True)


@pytest.mark.parametrize("use_kernels", [True, False], ids=["native", "torch"])
def test_bfloat16_says_what_float32_says(expected: torch.Tensor, use_kernels: bool) -> None:
    found = log_probabilities("bfloat16", use_kernels=use_kernels)
    assert found.shape == expected.shape
    assert len(found) > 100
    agreement = (found.argmax(-1) == expected.argmax(-1)).float().mean()
    divergence = (expected.exp() * (expected - found)).sum(-1)
    # Measured on AVX2: 0.993, 8e-4 and 8e-3, natively; 0.993, 9e-4 and 1e-2 in torch.
    assert agreement >= 0.97
    assert divergence.mean() <= 2e-3
    assert divergence.max() <= 0.04
