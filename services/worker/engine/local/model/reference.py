"""What transformers' own forward says of a few tokens: a runner of ours is held against it before it serves.

A config of a known family may have an option that our kernels do not know of; then they would answer wrongly and in good
faith.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from services.worker.engine.interface import EngineRequest, Sampling
from services.worker.engine.local.adapters.loaded_adapter import LoadedAdapter
from services.worker.engine.local.output_streams import OutputStream
from services.worker.engine.local.schedule.scheduler import StepChunk
from services.worker.engine.local.schedule.sequence import Sequence
from services.worker.engine.local.torch_form import torch_attention

_PROMPT = 9
_TOKENS = 13
_OWN_ATTENTION = "eager"
# By how much a runner may be off, over the root of the number of layers: rounding errors of each add up like steps of a
# random walk. In bfloat16 two orders of the same sums were 0.12 apart in 30 layers (SmolLM2-135M) and 0.03 in two; a
# factor of 0.9 on the scores of attention is 0.36 there, a wrong activation 0.67. In float32 1e-5 is seen.
_MOST = {torch.float32: 2e-4, torch.bfloat16: 0.055}


@dataclass(frozen=True)
class Reference:
    """Logits of the model's own code, with an attention of transformers' own."""

    tokens: tuple[int, ...]
    logits: Tensor
    """[tokens from the prompt's last on, vocabulary], float32"""
    most: float
    """The largest distance that rounding explains."""

    @classmethod
    @torch.inference_mode()
    def of(cls, model: PreTrainedModel, vocabulary: int) -> "Reference":
        """Compute it; the model is as it was afterwards."""
        tokens = tuple((place + 1) * vocabulary // (_TOKENS + 1) for place in range(_TOKENS))
        model.set_attn_implementation(_OWN_ATTENTION)
        try:
            output = model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False)
        finally:
            model.set_attn_implementation(torch_attention.IMPLEMENTATION)
        most = _MOST[model.dtype] * math.sqrt(model.config.get_text_config().num_hidden_layers)
        return cls(tokens, output.logits[0, _PROMPT - 1 :].float(), most)

    def distance(self, run: Callable[[list[StepChunk[LoadedAdapter]]], Tensor], *, block_size: int) -> float:
        """How far a runner's logits are from these, over how far these are from their mean; 0 is equal.

        Runs the prompt and then one token after the other, in the first blocks of the runner's cache, which nobody else
        may have yet. NaN where the runner gives NaN.
        """
        request = EngineRequest("reference", "", self.tokens[:_PROMPT], Sampling(max_tokens=_TOKENS))
        sequence: Sequence[LoadedAdapter] = Sequence(request, None, frozenset(), OutputStream())
        sequence.blocks.extend(range(1, 2 + _TOKENS // block_size))
        found = []
        while True:
            chunk = StepChunk(sequence, sequence.computed, sequence.remaining)
            found.append(run([chunk])[0].float())
            if chunk.end == _TOKENS:
                break
            sequence.computed = chunk.end
            sequence.tokens.append(self.tokens[chunk.end])
        ours, theirs = torch.stack(found), self.logits
        return float((ours - theirs).norm() / (theirs - theirs.mean(-1, keepdim=True)).norm())
