"""From a step's logits to its tokens, as protos/loramux/inference/v1/sampling.proto orders it.

Each row is treated by itself, so that a sequence's tokens do not depend on its neighbours'.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.worker.engine.interface import Sampling, TokenLogprob
from services.worker.engine.local.schedule.reweighting import Reweighting

_GREEDY_BELOW = 1e-5
"""Dividing by less would overflow, and the likeliest token has all the probability long before."""

_LARGEST = 1e30
"""Penalties and temperature may not push a logit to infinity, where its softmax has no value."""


@dataclass(frozen=True)
class SampleRow:
    """What the sampler needs of one sequence."""

    sampling: Sampling
    tokens: Sequence[int]
    """Prompt, then output."""
    prompt_length: int
    reweighting: Reweighting | None
    """None where there are no penalties and no bias."""


@dataclass(frozen=True)
class Sampled:
    """One row's next token."""

    token_id: int
    logprob: TokenLogprob | None
    """None unless the request asked for it."""


@torch.inference_mode()
def sample(logits: Tensor, rows: Sequence[SampleRow]) -> list[Sampled | None]:
    """Choose one token for each row of `logits` [rows, vocabulary]; None where the model's logits are not finite.

    Logits may have any floating dtype; probabilities are computed in float32.
    """
    # max() hands a NaN on, so one pass over the logits finds both the greedy token and a broken row.
    largest, likeliest = logits.max(dim=-1)
    greedy, finite = likeliest.tolist(), largest.isfinite().tolist()
    sampled: list[Sampled | None] = []
    for index, row in enumerate(rows):
        if not finite[index]:
            sampled.append(None)
            continue
        plain = is_greedy(row.sampling) and row.reweighting is None
        token_id = greedy[index] if plain else _choose(logits[index].float(), row)
        sampled.append(Sampled(token_id, _logprob(logits[index], token_id, row.sampling)))
    return sampled


def is_greedy(sampling: Sampling) -> bool:
    """Whether the likeliest token is taken, after penalties and bias."""
    return sampling.temperature < _GREEDY_BELOW


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1), the same for the same seed and position whatever else runs.

    SplitMix64's finaliser (Steele, Lea and Flood, 2014) over both; 53 bits, all that a float holds.
    """
    return (_mix(_mix(seed) + position) >> 11) * 2.0**-53


def _mix(value: int) -> int:
    mask = (1 << 64) - 1
    value = (value + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


def _choose(logits: Tensor, row: SampleRow) -> int:
    """One row's token, from its logits [vocabulary] in float32."""
    sampling = row.sampling
    if not is_greedy(sampling):
        logits = (logits / sampling.temperature).clamp(-_LARGEST, _LARGEST)
    if row.reweighting is not None:
        row.reweighting.take(row.tokens, row.prompt_length)
        logits = _reweight(logits.clone(), sampling, row.reweighting)
    if is_greedy(sampling):
        return int(logits.argmax())
    draw = uniform(sampling.seed, len(row.tokens))
    if sampling.top_k == 0 and sampling.top_p >= 1.0 and sampling.min_p == 0.0:
        return _invert(logits.softmax(-1), draw)
    values, token_ids = _likeliest_first(logits, sampling.top_k)
    # In the order of tokens, as without rules.
    weights = torch.zeros_like(logits).scatter_(0, token_ids, _filtered(values, sampling))
    return _invert(weights, draw)


def _reweight(logits: Tensor, sampling: Sampling, weights: Reweighting) -> Tensor:
    """Apply penalties and bias in place."""
    seen = torch.tensor(weights.tokens, dtype=torch.int64, device=logits.device)
    counts = torch.tensor(weights.counts, device=logits.device)
    if sampling.repetition_penalty != 1.0:
        values = logits[seen]
        factor = sampling.repetition_penalty
        logits[seen] = torch.where(values > 0, values / factor, values * factor).clamp(-_LARGEST, _LARGEST)
    if sampling.presence_penalty or sampling.frequency_penalty:
        penalty = sampling.presence_penalty + sampling.frequency_penalty * counts
        logits[seen] -= torch.where(counts > 0, penalty, 0.0)
    if weights.biased:
        biased = torch.tensor(weights.biased, dtype=torch.int64, device=logits.device)
        logits[biased] += torch.tensor(weights.bias, device=logits.device)
    return logits


def _likeliest_first(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Logits in descending order with their token ids; the first k where top-k is asked for."""
    if top_k:
        return logits.topk(min(top_k, logits.shape[-1]))
    return logits.sort(descending=True, stable=True)


def _filtered(values: Tensor, sampling: Sampling) -> Tensor:
    """Weights of the tokens that top-p and min-p keep, and zeros; `values` are logits in descending order."""
    weights = values.softmax(-1)
    keep = weights >= sampling.min_p * weights[0]
    if sampling.top_p < 1.0:
        # The smallest set that reaches p: a token stays while those before it have not reached it.
        keep &= weights.cumsum(-1, dtype=torch.float64) - weights < sampling.top_p
    keep[0] = True
    return weights * keep


def _invert(weights: Tensor, draw: float) -> int:
    """The index at which the running sum of `weights` passes `draw` of their total."""
    # float64: over a large vocabulary, float32 would lose the rare tokens.
    sums = weights.cumsum(-1, dtype=torch.float64)
    total = float(sums[-1])
    index = int(torch.searchsorted(sums, draw * total, right=True))
    # Rounding may take draw * total up to the total itself; the last token with any weight is meant then.
    return index if index < len(sums) else int(weights.nonzero()[-1])


def _logprob(logits: Tensor, token_id: int, sampling: Sampling) -> TokenLogprob | None:
    if sampling.logprobs is None:
        return None
    logprobs = logits.log_softmax(-1, dtype=torch.float32)
    values, token_ids = logprobs.topk(min(sampling.logprobs, len(logprobs)))
    top = tuple(zip(token_ids.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token_id, float(logprobs[token_id]), top)
