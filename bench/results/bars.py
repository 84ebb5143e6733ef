"""What the results must reach, and when a run can tell that they do."""

from collections.abc import Mapping

from bench.results.ratios import CONFIDENCE, Estimate

Bar = float | Mapping[str, float]
"""One for every CPU, or by kind of CPU where they differ."""

BARS: Mapping[str, Bar] = {
    "base_vs_vllm": {"Zen 4": 1.3, "Emerald Rapids": 1.7},
    "lora8_vs_base": 0.88,
    "lora1_vs_base": 0.93,
    "lora32_vs_base": 0.75,
    "lora8_vs_vllm": 4.5,
    "lora8_vs_peft": 6.0,
    "base_on_lora_worker": 0.98,
    "zipf1000_vs_lora8": 0.70,
    # 32 sampled rows cost at most 1.10 of 32 greedy ones.
    "sampled_vs_base": 0.91,
    # And 1.25 where the vocabulary is three and five times as large.
    "sampled_vs_base_151k": 0.80,
    "sampled_vs_base_262k": 0.80,
    "share_of_linear_floor": 0.55,
    "single_stream_vs_vllm": 2.2,
    "prefill_tok_s_vs_vllm": 1.0,
    "busy_nice19_vs_quiet": 0.6,
    "busy_nice19_vs_quiet_one": 0.5,
    "over_asked_vs_default": 0.8,
    "over_asked_vs_default_one": 0.8,
    "first_token_vs_vllm": 0.9,
    "first_token_vs_transformers": 0.9,
    "lora8_first_token_vs_vllm": 0.9,
    "lora8_first_token_vs_peft": 0.9,
}
CEILINGS: Mapping[str, float] = {"cold_adapter_added_ms": 60.0, "rss_per_adapter_over_file": 1.2}


def verdict(name: str, value: Estimate | float, kind: str) -> str:
    """Whether `value` reaches its bar on a CPU of this kind; empty where it has none.

    An estimate whose interval has the bar inside is open: this run cannot tell, and neither can one of so few rounds that
    the interval is not sure. A plain number is a count, and is what it is.
    """
    ceiling = name in CEILINGS
    bar: Bar | None = CEILINGS.get(name) if ceiling else BARS.get(name)
    if isinstance(bar, Mapping):
        bar = bar.get(kind)
        if bar is None:
            return "no bar for this CPU"
    if bar is None:
        return ""
    if isinstance(value, Estimate):
        low, high, sure = value.low, value.high, value.confidence >= CONFIDENCE
    else:
        low, high, sure = value, value, True
    if ceiling:
        found = "held" if high <= bar else "OVER" if low > bar else "open"
        return f"at most {bar:g}: {found if sure else 'open'}"
    found = "reached" if low >= bar else "SHORT" if high < bar else "open"
    return f"bar {bar:g}: {found if sure else 'open'}"
