"""Sampled answers of models with large vocabularies: the more tokens there are, the more a choice among them costs."""

from dataclasses import replace

from bench.results.ratios import ratio
from bench.results.report import Value
from bench.rows.random_base import make_random_base
from bench.rows.request_kinds import decode_speed_of
from bench.rows.setup import Setup, warm_engine
from bench.turns import take_turns


async def vocabularies(setup: Setup) -> dict[str, Value]:
    """Decode at temperature 0.8 and top_p 0.95 over greedy, by the size of the vocabulary."""
    scale, results = setup.scale, {}
    for shape in scale.shapes:
        config = replace(setup.config, base_folder=make_random_base(shape, setup.bases), adapter_slots=0)
        engine = await warm_engine(config, scale)
        greedy = scale.workload(prompt=scale.vocabulary_prompt, new=scale.vocabulary_new)
        try:
            found = await take_turns(
                [
                    decode_speed_of(f"{shape.name}, greedy", engine, greedy),
                    decode_speed_of(
                        f"{shape.name}, sampled", engine, replace(greedy, temperature=0.8, top_p=0.95)
                    ),
                ],
                setup.rounds,
            )
        finally:
            await engine.stop()
        size = shape.config["vocab_size"] // 1000
        results[f"sampled_vs_base_{size}k"] = ratio(found, f"{shape.name}, sampled", f"{shape.name}, greedy")
    return dict(results)
