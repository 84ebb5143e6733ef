"""Native CPU kernels: small C++ sources, compiled at first start for the CPU at hand.

`load_kernels` gives them, or None where nothing compiles. Everything else takes what it gives:

- sites.py: what an adapter does at the places of a model, and whose each row of a batch is
- linear.py: linear layers over packed weights, with LoRA and the gate of an MLP in the same call
- attention.py: the paged cache, attention over it, rotary embedding on the way into it
- rowwise.py: RMSNorm, and the norms that an adapter brings
- choosing.py: a step's tokens from its logits
- layers.py: a step through all layers of a decoder in one call
"""

from services.worker.engine.local.native.kernels.attention import (
    PackedCache,
    PagedAttention,
    RotaryWriter,
    SequenceBatch,
)
from services.worker.engine.local.native.kernels.choosing import Chosen, choose
from services.worker.engine.local.native.kernels.layers import DecoderLayer, DecoderLayers
from services.worker.engine.local.native.kernels.library import Kernels, load_kernels
from services.worker.engine.local.native.kernels.linear import Activation, PackedLinear, linear_bytes
from services.worker.engine.local.native.kernels.packing import Arena
from services.worker.engine.local.native.kernels.rowwise import OwnNorms, RmsNorm
from services.worker.engine.local.native.kernels.sites import LoraRuns, PackedAdapter, Site

__all__ = [
    "Activation",
    "Arena",
    "Chosen",
    "DecoderLayer",
    "DecoderLayers",
    "Kernels",
    "LoraRuns",
    "OwnNorms",
    "PackedAdapter",
    "PackedCache",
    "PackedLinear",
    "PagedAttention",
    "RmsNorm",
    "RotaryWriter",
    "SequenceBatch",
    "Site",
    "choose",
    "linear_bytes",
    "load_kernels",
]
