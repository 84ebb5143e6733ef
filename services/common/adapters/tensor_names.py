"""The names of tensors in an adapter's file, as PEFT 0.21's save_and_load.py writes them."""

from collections.abc import Mapping

A, B, B_BIAS = "lora_A.weight", "lora_B.weight", "lora_B.bias"
EMBEDDING_A, EMBEDDING_B = "lora_embedding_A", "lora_embedding_B"
MAGNITUDE = "lora_magnitude_vector"
TOKEN_ROWS = "token_adapter.trainable_tokens_delta"  # noqa: S105  # not a password
BASE_WEIGHT, BASE_BIAS = "base_layer.weight", "base_layer.bias"
WEIGHT, BIAS = "weight", "bias"

GOES_WITH: Mapping[str, str] = {
    A: "LoRA on a linear module or the output layer",
    B: "LoRA on a linear module or the output layer",
    B_BIAS: "lora_bias and LoRA on a linear module or the output layer",
    EMBEDDING_A: "LoRA on the input embedding",
    EMBEDDING_B: "LoRA on the input embedding",
    MAGNITUDE: "use_dora and LoRA on this module",
    TOKEN_ROWS: "trainable_token_indices that name this module",
    BASE_WEIGHT: "LoRA on the input embedding or the output layer",
    BASE_BIAS: "bias 'all' or 'lora_only', LoRA on this module, and a bias of the base",
    # Last, so that `x.lora_A.weight` is not `weight` of `x.lora_A`.
    WEIGHT: "modules_to_save that name this module, or the base's own input embedding or output layer",
    BIAS: "modules_to_save that name this module, or bias 'all', and a bias of the base",
}
"""What each part of a name belongs to. There are no others."""

FORM = f"base_model.model.<module path>. and one of {', '.join(GOES_WITH)}"
"""What a name must be, for people."""

_PREFIX = "base_model.model."
_ENDS = tuple((f".{part}", part) for part in GOES_WITH)


def split_name(name: str) -> tuple[str, str] | None:
    """Path of the module and part of a tensor's name; None for a name that PEFT does not write."""
    if not name.startswith(_PREFIX):
        return None
    for end, part in _ENDS:
        if name.endswith(end):
            path = name[len(_PREFIX) : -len(end)]
            return (path, part) if path else None
    return None


def is_lora(part: str) -> bool:
    """Whether a module that has a tensor of that part is adapted by LoRA."""
    return part.startswith("lora_")
