"""Which models run on the native kernels: decoders of one shape, whose parts have different names.

RMSNorm, attention with rotary embedding, RMSNorm, gated MLP; Gemma norms the output of both once more before it is added.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.worker.engine.local.model.base_weights import BaseModel
from services.worker.engine.local.native.kernels import Activation

ACTIVATIONS: Mapping[str, Activation] = {
    "silu": Activation.SILU,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
}
_BLOCK_MULTIPLE = 16


@dataclass(frozen=True)
class Piece:
    """A projection: a linear module, or one of several equal parts of its outputs."""

    path: str
    """Below a layer."""
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Family:
    """The parts of one layer, by the paths below it."""

    qkv: tuple[Piece, ...] = (
        Piece("self_attn.q_proj"),
        Piece("self_attn.k_proj"),
        Piece("self_attn.v_proj"),
    )
    output: Piece = Piece("self_attn.o_proj")
    gate_up: tuple[Piece, Piece] = (Piece("mlp.gate_proj"), Piece("mlp.up_proj"))
    down: Piece = Piece("mlp.down_proj")
    input_norm: str = "input_layernorm"
    mlp_norm: str = "post_attention_layernorm"
    after_attention: str | None = None
    after_mlp: str | None = None
    norm_offset: float = 0.0
    """Added to the weights of all norms."""

    @property
    def norms(self) -> Mapping[str, str]:
        """The paths of a layer's norms by their names in the kernels; not every model has those of heads."""
        paths = {
            "input_norm": self.input_norm,
            "after_attention": self.after_attention,
            "mlp_norm": self.mlp_norm,
            "after_mlp": self.after_mlp,
            "q_norm": "self_attn.q_norm",
            "k_norm": "self_attn.k_norm",
        }
        return {name: path for name, path in paths.items() if path is not None}

    @property
    def groups(self) -> tuple[tuple[Piece, ...], ...]:
        """The projections that share an input, in the order of their calls."""
        return self.qkv, (self.output,), self.gate_up, (self.down,)


_LLAMA = Family()
_PHI3 = Family(
    qkv=(Piece("self_attn.qkv_proj"),),
    gate_up=(Piece("mlp.gate_up_proj", 0, 2), Piece("mlp.gate_up_proj", 1, 2)),
)
_GEMMA = Family(
    mlp_norm="pre_feedforward_layernorm",
    after_attention="post_attention_layernorm",
    after_mlp="post_feedforward_layernorm",
    norm_offset=1.0,
)

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _LLAMA,
    "Qwen3ForCausalLM": _LLAMA,
    "Phi3ForCausalLM": _PHI3,
    "Gemma2ForCausalLM": _GEMMA,
    "Gemma3ForCausalLM": _GEMMA,
}


def family_of(model: Any) -> Family | None:  # Any: a model class of each family
    """None where a model is of no family on the kernels."""
    return FAMILIES.get(type(model).__name__)


def activation_name(config: Any) -> str:  # Any: a config class of each family
    """What the MLP does to its gate; Gemma has a name of its own for it."""
    return str(getattr(config, "hidden_activation", None) or config.hidden_act)


def why_not_native(base: BaseModel, block_size: int) -> str | None:
    """What keeps a model from running on the kernels; None where nothing does."""
    return why_not(type(base.model).__name__, base.model.config, base.device.type, block_size)


def why_not(architecture: str, config: Any, device: str, block_size: int) -> str | None:
    """The same of a model that is not loaded yet, by its config."""
    if device != "cpu":
        return f"the device is {device}"
    if architecture not in FAMILIES:
        return f"{architecture} is not one of {', '.join(FAMILIES)}"
    activation = activation_name(config)
    if activation not in ACTIVATIONS:
        return f"the activation {activation} is not one of {', '.join(ACTIVATIONS)}"
    if block_size % _BLOCK_MULTIPLE:
        return f"blocks of {block_size} tokens are not a multiple of {_BLOCK_MULTIPLE}"
    return None
