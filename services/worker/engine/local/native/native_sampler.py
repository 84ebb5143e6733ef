"""The sampler on the native kernels: what `sampler` says in torch, for all rows at once."""

from collections.abc import Sequence

from torch import Tensor

from services.worker.engine.interface import TokenLogprob
from services.worker.engine.local.native.kernels import Kernels, choose
from services.worker.engine.local.native.kernels.structs import ChooseRow
from services.worker.engine.local.sampler import Sampled, SampleRow, is_greedy, uniform


def sample(kernels: Kernels, logits: Tensor, rows: Sequence[SampleRow]) -> list[Sampled | None]:
    """See Runner.sample."""
    chosen = choose(kernels, logits, [_row(row) for row in rows])
    return [
        None if token < 0 else Sampled(token, _logprob(row, token, logprob, top))
        for row, token, logprob, top in zip(rows, chosen.tokens, chosen.logprobs, chosen.top, strict=True)
    ]


def _row(row: SampleRow) -> ChooseRow:
    sampling, weights = row.sampling, row.reweighting
    made = ChooseRow(
        draw=uniform(sampling.seed, len(row.tokens)),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition=sampling.repetition_penalty,
        presence=sampling.presence_penalty,
        frequency=sampling.frequency_penalty,
        top_k=sampling.top_k,
        greedy=is_greedy(sampling),
        logprobs=-1 if sampling.logprobs is None else sampling.logprobs,
    )
    if weights is not None:
        weights.take(row.tokens, row.prompt_length)
        made.seen_token, made.seen = weights.tokens.buffer_info()
        made.seen_count, _ = weights.counts.buffer_info()
        made.biased_token, made.biased = weights.biased.buffer_info()
        made.bias, _ = weights.bias.buffer_info()
    return made


def _logprob(row: SampleRow, token: int, logprob: float, top: list[tuple[int, float]]) -> TokenLogprob | None:
    return None if row.sampling.logprobs is None else TokenLogprob(token, logprob, tuple(top))
