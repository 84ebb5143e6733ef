"""Which of a stranger's patterns are matched at all, and what a table of them gives."""

import re

import pytest

from services.common.adapters.patterns import PatternTable
from services.common.errors import InvalidFieldError

PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
         "mlp.up_proj", "mlp.down_proj")  # fmt: skip


def paths_of(layers: int) -> list[str]:
    return [f"model.layers.{layer}.{part}" for layer in range(layers) for part in PARTS]


def table(*keys: str, layers: int = 32) -> PatternTable[int]:
    """Each pattern's number is its place."""
    return PatternTable("rank_pattern", {key: place for place, key in enumerate(keys)}, paths_of(layers))


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj",
        "^model.layers.0.self_attn.q_proj",
        r"model\.layers\.\d+\.self_attn\.q_proj",
        "layers.(0|1|2|3).*q_proj",
        "(?:q|k|v)_proj",
        r".*\.layers\.[0-9]+\.mlp\.(up|down)_proj",
        "layers.1?",
    ],
)
def test_what_people_write_passes(pattern: str) -> None:
    table(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b",
        r"(.+|\\)*b",
        "(a|a)*b",
        "(a|a)" * 40,
        "a?" * 60,
        ".*" * 8 + "b",
        "(?i)a",
        "(?P<n>a)(?P=n)",
        r"(a)\1",
        "(",
        "a)(b",
        "*",
        "a{99999999999}",
        "x" * 1_100,
    ],
)
def test_what_could_take_years_or_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        table(pattern)
    assert caught.value.reason == "ADAPTER_CONFIG_INVALID"
    assert caught.value.field == "adapter_config.json: rank_pattern"


def test_many_costly_patterns_are_refused_together() -> None:
    with pytest.raises(InvalidFieldError, match="fewer"):
        table(*(f".*.*.*.*{number}" for number in range(100)))


def test_a_rule_for_each_layer_of_a_large_model_passes() -> None:
    """As axolotl's users write them (field report F11)."""
    rules = [rf".*\.layers\.{layer}\..*(q_proj|k_proj|v_proj|o_proj)$" for layer in range(80)]
    ranks = table(*rules, layers=80)
    assert [ranks.number_of(f"model.layers.{layer}.self_attn.k_proj") for layer in (0, 8, 79)] == [0, 8, 79]
    assert ranks.number_of("model.layers.3.mlp.up_proj") is None


def test_more_patterns_than_the_base_has_modules_are_refused() -> None:
    """Each is cheap; 7,800 of them took minutes (registry review 9, p18_hostile.py)."""
    with pytest.raises(
        InvalidFieldError, match="'7800 patterns'; it must be at most 224, one for each module"
    ):
        table(*(f"z{number}" for number in range(7_800)))


def test_a_pattern_for_each_module_of_a_large_model_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As PEFT's EVA writes it (registry review 9, p4_patterns.py). re's own cache holds 512."""
    compiled: list[str] = []
    compile_pattern = re.compile

    def counted(pattern: str) -> re.Pattern[str]:
        compiled.append(pattern)
        return compile_pattern(pattern)

    monkeypatch.setattr(re, "compile", counted)
    paths = paths_of(80)
    ranks = table(*paths, layers=80)
    for _ in range(2):
        assert [ranks.number_of(path) for path in paths] == list(range(len(paths)))
    assert len(compiled) == len(paths)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("model.layers.1.q_proj", 0),
        ("model.layers.11.q_proj", 1),
        ("q_proj", 1),
        ("model.my_q_proj", None),
        ("model.q_proj.inner", None),
    ],
)
def test_a_pattern_matches_whole_parts_at_the_end_of_a_path(path: str, found: int | None) -> None:
    assert table("layers.1.q_proj", "q_proj").number_of(path) == found
