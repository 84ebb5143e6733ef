"""Which of a stranger's patterns are matched at all."""

import pytest

from services.common.adapters.patterns import check_patterns, first_match
from services.common.errors import InvalidFieldError


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
    check_patterns("rank_pattern", [pattern])


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b",
        r"(.+|\\)*b",
        "(a|a)*b",
        "(a|a)" * 40,
        "a?" * 60,
        ".*.*.*b",
        "(?=a)a",
        "(?i)a",
        "(?P<n>a)(?P=n)",
        r"(a)\1",
        "(",
        "a)(b",
        "*",
        "a{99999999999}",
        "x" * 300,
    ],
)
def test_what_could_take_years_or_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidFieldError) as caught:
        check_patterns("rank_pattern", [pattern])
    assert caught.value.reason == "ADAPTER_CONFIG_INVALID"


def test_a_pattern_for_each_module_of_a_large_model_passes() -> None:
    check_patterns(
        "rank_pattern", [f"model.layers.{layer}.mlp.{n}" for layer in range(100) for n in "abcdefg"]
    )


def test_many_costly_patterns_are_refused_together() -> None:
    with pytest.raises(InvalidFieldError, match="fewer"):
        check_patterns("rank_pattern", [f".*.*{number}" for number in range(100)])


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("model.layers.1.q_proj", "layers.1.q_proj"),
        ("model.layers.11.q_proj", "q_proj"),
        ("q_proj", "q_proj"),
        ("model.my_q_proj", None),
        ("model.q_proj.inner", None),
    ],
)
def test_a_pattern_matches_whole_parts_at_the_end_of_a_path(path: str, found: str | None) -> None:
    assert first_match(["layers.1.q_proj", "q_proj"], path) == found
