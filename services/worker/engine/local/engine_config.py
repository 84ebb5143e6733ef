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
    adapter_slots: int = 0
    """Adapters resident at once; 0: as many as fit `adapter_bytes`."""
    adapter_bytes: int = 0
    """Device memory for adapters, never exceeded; 0 takes a part of what is left: `memory_plan`."""
    host_cache_bytes: int = 2 * 1024**3
    """Host memory for adapters that have left an accelerator; 0 keeps none. On a CPU `adapter_bytes` are that already."""
    max_sequences: int = 64
    """Sequences running at once; more wait."""
    kv_tokens: int = 0
    """Tokens whose keys and values fit, over all sequences; rounded up to whole blocks. 0 takes a part of what is left."""
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
