"""How much is run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rows.random_base import GEMMA, QWEN, Shape
from bench.workload import Workload
from tests.support.paths import BASE


@dataclass(frozen=True)
class Scale:
    """The whole benchmark unless told otherwise."""

    base: Path = BASE
    highest_token: int = 40_000
    requests: int = 32
    """At once; the curve ends with twice as many."""
    prompt: int = 64
    new: int = 128
    prefill_requests: int = 32
    prefill_prompt: int = 512
    slots: int = 96
    """Adapters resident at once."""
    on_disk: int = 1000
    over_disk_requests: int = 96
    """Over 8 resident adapters and over all those on disk."""
    cold: int = 20
    """Adapters that are loaded with their files out of memory."""
    long_sequences: int = 4
    long_context: int = 4096
    long_new: int = 128
    """Tokens with which that context ends: those that are decoded."""
    shapes: tuple[Shape, ...] = (QWEN, GEMMA)
    """Of models with large vocabularies."""
    vocabulary_prompt: int = 8
    vocabulary_new: int = 32
    arrivals: int = 60
    """Requests of one round of the open loop."""
    mixed_prompt: tuple[int, int] = (16, 1024)
    mixed_new: tuple[int, int] = (8, 128)
    quick: bool = False

    def workload(self, **changes: Any) -> Workload:  # Workload's fields
        """`requests` at once of `prompt` and `new` tokens, greedy, but for the changes."""
        given = {"requests": self.requests, "prompt": self.prompt, "new": self.new}
        return Workload(**{**given, "highest_token": self.highest_token, **changes})


FULL = Scale()
QUICK = Scale(
    prompt=16,
    new=8,
    prefill_requests=2,
    prefill_prompt=256,
    on_disk=96,
    over_disk_requests=32,
    cold=4,
    long_sequences=2,
    long_context=512,
    long_new=16,
    vocabulary_new=8,
    arrivals=12,
    mixed_prompt=(8, 64),
    mixed_new=(2, 16),
    quick=True,
)
