"""What an engine is built from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from services.worker.engine.local.processors import most_threads, usable_processors


@dataclass(frozen=True)
class EngineConfig:
    """One base model on one device, and how much of the device it may use."""

    base_folder: Path
    """A Hugging Face model folder: config.json and safetensors."""
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the device computes in it, or the kernels widen the checkpoint's; else float32."""
    threads: int = 0
    """CPU threads of one step; 0 takes the cores that this process may use. See `processors`."""
    adapter_slots: int = 32
    """Adapters resident at once."""
    adapter_bytes: int = 8 * 1024**3
    """Device memory for adapters; beyond it those not in use leave before slots run out."""
    host_cache_bytes: int = 2 * 1024**3
    """Host memory for adapters that have left the device; 0 keeps none."""
    max_sequences: int = 64
    """Sequences running at once; more wait."""
    kv_tokens: int = 65_536
    """Tokens whose keys and values fit, over all sequences; rounded up to whole blocks."""
    prefill_tokens: int = 512
    """Prompt tokens one step takes in at most; fewer where they would stall the others' tokens: `PrefillPace`."""
    prefix_cache: bool = True
    """Whether a prompt that begins as an earlier one of the same account and adapter takes its keys and values over."""
    kernels: Literal["auto", "off"] = "auto"
    """auto: the native kernels where they compile and know the model, else torch; off: torch."""
    block_size: int = 16
    """Tokens of one block of keys and values."""

    def resolved_threads(self) -> int:
        """At most as many as can run at once, whatever was asked for."""
        return min(self.threads or usable_processors(), most_threads())
