"""Every row of `make bench` runs from end to end, on a miniature model and as little work as there can be."""

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench.appetites import Account, unequal_appetites
from bench.engine import ROWS, run
from bench.results.ratios import Estimate
from bench.results.report import Value
from bench.rows.random_base import Shape
from bench.scale import Scale
from tests.support.engine import assert_all_is_free, running_engine
from tests.support.models import VOCABULARY, write_tiny_base

KEYS = {
    "rss_per_adapter_mb", "rss_per_adapter_over_file", "base_tok_s", "lora1_vs_base", "lora8_vs_base", "lora32_vs_base",
    "base_on_lora_worker", "share_of_linear_floor", "added_by_adapters", "lora64_vs_base64", "sampled_vs_base", "sampled_vs_base_5k",
    "single_stream_tok_s", "prefill_tok_s", "long_context_tok_s", "long_context_vs_short", "zipf64_vs_lora8",
    "cold_adapter_added_ms", "busy_nice19_vs_quiet", "busy_equal_vs_quiet", "busy_quiet_tok_s",
    "busy_nice19_vs_quiet_one", "busy_equal_vs_quiet_one", "busy_quiet_tok_s_one", "over_asked_vs_default",
    "over_asked_vs_default_one", "open_loop_requests_s", "open_loop_first_token_ms", "open_loop_inter_token_ms",
}  # fmt: skip


SMALL = Shape(
    "small",
    {
        "model_type": "llama", "vocab_size": 5_000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1_024,
    },
)  # fmt: skip


def tiny(base: Path) -> Scale:
    return Scale(
        base=base,
        # The vocabulary is what the tokenizer has come to; this is less.
        highest_token=VOCABULARY // 2,
        prompt=4,
        new=4,
        prefill_requests=2,
        prefill_prompt=32,
        on_disk=64,
        over_disk_requests=4,
        cold=2,
        long_sequences=2,
        # So many that the event loop cannot have slept through them: decode is timed while all sequences decode.
        long_context=600,
        long_new=400,
        shapes=(SMALL,),
        vocabulary_new=400,
        arrivals=6,
        mixed_prompt=(4, 16),
        mixed_new=(2, 4),
        quick=True,
    )


def figures(value: Value) -> list[float]:
    if isinstance(value, str):
        return []
    if isinstance(value, Estimate):
        return list(value.values)
    return list(value.values()) if isinstance(value, Mapping) else [value]


async def test_every_row_of_the_benchmark_gives_figures(tmp_path: Path) -> None:
    scale = tiny(write_tiny_base(tmp_path / "base"))
    results: dict[str, Value] = {}
    rows = 0
    async for found in run(scale, 1, tmp_path / "adapters"):
        results |= found
        rows += 1
    assert rows == len(ROWS)
    # Of files that no file system could drop there is one row more.
    assert set(results) - {"cold_adapter_files_in_memory"} == KEYS
    assert all(math.isfinite(one) for value in results.values() for one in figures(value))
    speeds = [key for key in KEYS if "tok_s" in key or "_vs_" in key]
    assert all(one > 0 for key in speeds for one in figures(results[key]))


@pytest.mark.parametrize("weight", [1.0, 3.0])
async def test_service_of_unequal_appetites_is_counted_and_even(tmp_path: Path, weight: float) -> None:
    async with running_engine(write_tiny_base(tmp_path), max_sequences=4, kv_tokens=2048) as engine:
        guests = (
            Account("hungry", 20, (40, 80), (5, 10)),
            # So many that some wait, however slowly this process comes to ask for the next.
            Account("modest", 20, (5, 20), (2, 6), weight=weight),
            Account("brief", 20, (1, 10), (1, 3)),
        )
        service = await unequal_appetites(
            engine, guests, windows=3, window=6_000.0, highest_token=VOCABULARY // 2
        )
        assert len(service.indices) >= 3
        assert min(service.indices) >= 0.95
        share = {one.name: service.totals[one.name] / one.weight for one in guests}
        assert share["modest"] == pytest.approx(share["hungry"], rel=0.2)
        # Who was waiting has left with the clients.
        await assert_all_is_free(engine)
