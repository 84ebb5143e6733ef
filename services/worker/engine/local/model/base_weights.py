"""Loads a base model: transformers' own code, with our attention under it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from services.common.logs import get_logger
from services.worker.engine.local.torch_form import torch_attention

_log = get_logger(__name__)


@dataclass(frozen=True)
class BaseModel:
    """A model that is ready to run, and what serving has to know of it."""

    model: PreTrainedModel
    dtype: torch.dtype
    device: torch.device
    vocabulary: int
    """Rows of the input embedding: ids that a prompt may have."""
    context_length: int
    """Positions that the model takes."""
    stop_ids: frozenset[int]
    """The model's own end-of-text tokens."""


def load_base_model(
    folder: Path,
    device_name: str,
    dtype_name: Literal["auto", "float32", "bfloat16"],
    *,
    widens: Callable[[PretrainedConfig], bool] = lambda _: False,
) -> BaseModel:
    """Load the decoder-only model in `folder`, from safetensors, without running code that came with it.

    `widens` says whether what will run the model computes with bfloat16 weights on a CPU that cannot multiply them. Raises what transformers raises for a folder that it cannot load.
    """
    # It would mix with the log lines. transformers leaves these three untyped.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    device = torch.device(device_name)
    dtype, why = _choose_dtype(dtype_name, device, folder, widens)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=torch_attention.IMPLEMENTATION,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    model.to(device)  # type: ignore[arg-type]
    model.eval()  # type: ignore[no-untyped-call]
    model.requires_grad_(False)
    loaded = BaseModel(
        model=model,
        dtype=dtype,
        device=device,
        vocabulary=_vocabulary(model),
        context_length=_context_length(model.config.get_text_config()),
        stop_ids=_stop_ids(model),
    )
    _log.info(
        "base_model_loaded",
        folder=str(folder),
        model=type(model).__name__,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        dtype_reason=why,
        context_length=loaded.context_length,
    )
    return loaded


def _choose_dtype(
    name: str, device: torch.device, folder: Path, widens: Callable[[PretrainedConfig], bool]
) -> tuple[torch.dtype, str]:
    if name != "auto":
        return getattr(torch, name), "configured"
    if device.type != "cpu":
        return torch.bfloat16, "accelerator"
    features = torch.cpu.get_capabilities()
    if features.get("avx512_bf16") or features.get("amx_bf16"):
        return torch.bfloat16, "the CPU multiplies bfloat16"
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if config.dtype is torch.bfloat16 and widens(config):
        # Half the memory, and half of what a single stream waits for.
        return torch.bfloat16, "the checkpoint's, which the kernels widen in registers"
    return torch.float32, "the CPU has neither AVX512-BF16 nor AMX"


def _vocabulary(model: PreTrainedModel) -> int:
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]


def _context_length(config: Any) -> int:  # Any: a config class of each family
    length = int(config.max_position_embeddings)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        # Beyond it, longrope changes the frequencies of the whole batch, of the short sequences in it too.
        return min(length, int(rope["original_max_position_embeddings"]))
    return length


def _stop_ids(model: PreTrainedModel) -> frozenset[int]:
    generation = model.generation_config
    stop = generation.eos_token_id if generation is not None else None
    if stop is None:
        stop = model.config.get_text_config().eos_token_id
    if stop is None:
        return frozenset()
    return frozenset([stop] if isinstance(stop, int) else stop)
