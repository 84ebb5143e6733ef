"""Requests of other kinds, all of the base: sampled, alone, mostly prompt, and far into a long context."""

from dataclasses import replace

from bench.results.ratios import estimate, ratio
from bench.results.report import Value
from bench.rows.setup import Setup, speed_of
from bench.turns import Candidate, take_turns
from bench.workload import BASE_ONLY, Workload, ask_all, decode_speed
from services.worker.engine.local.local_engine import LocalEngine


async def sampled(setup: Setup) -> dict[str, Value]:
    """What most clients send, over greedy."""
    greedy, chosen = setup.scale.workload(), setup.scale.workload(temperature=0.8, top_p=0.95)
    found = await take_turns(
        [speed_of("greedy", setup.bare, greedy), speed_of("sampled", setup.bare, chosen)], setup.rounds
    )
    return {"sampled_vs_base": ratio(found, "sampled", "greedy")}


async def alone_and_prefill(setup: Setup) -> dict[str, Value]:
    """One stream's tokens a second; prompt tokens a second of prompts that get one token each."""
    scale = setup.scale
    prefill = scale.workload(requests=scale.prefill_requests, prompt=scale.prefill_prompt, new=1)
    alone = await take_turns([speed_of("one stream", setup.bare, scale.workload(requests=1))], setup.rounds)
    prompts = await take_turns([speed_of("prefill, prompts", setup.bare, prefill)], setup.rounds)
    return {
        "single_stream_tok_s": estimate(alone["one stream"]),
        "prefill_tok_s": estimate(prompts["prefill, prompts"]).times(scale.prefill_prompt),
    }


async def long_context(setup: Setup) -> dict[str, Value]:
    """Decode alone, a few sequences far into a long context, over as many near the beginning of one."""
    scale = setup.scale
    near = scale.workload(requests=scale.long_sequences, new=scale.long_new)
    far = replace(near, prompt=scale.long_context - scale.long_new)
    async with setup.another(prefix_cache=True) as engine:
        # Prompts are computed once, here; every round finds them, and decodes.
        await ask_all(engine, replace(far, new=1), BASE_ONLY)
        found = await take_turns(
            [
                decode_speed_of(f"context {scale.prompt}", engine, near),
                decode_speed_of(f"context {scale.long_context}", engine, far),
            ],
            setup.rounds,
        )
    return {
        "long_context_tok_s": estimate(found[f"context {scale.long_context}"]),
        "long_context_vs_short": ratio(found, f"context {scale.long_context}", f"context {scale.prompt}"),
    }


def decode_speed_of(name: str, engine: LocalEngine, workload: Workload) -> Candidate:
    """A candidate whose figure is its new tokens a second while all its sequences decode."""

    async def measure(_number: int) -> float:
        return decode_speed(await ask_all(engine, workload, BASE_ONLY))

    return Candidate(name, measure)
