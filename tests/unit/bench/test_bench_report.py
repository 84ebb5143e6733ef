"""Results are kept by kind of CPU and by command, and shown with what they can tell."""

import json
from pathlib import Path

import pytest

from bench.results import report
from bench.results.plot import draw
from bench.results.ratios import estimate

SEVEN = [0.91, 0.9, 0.92, 0.89, 0.93, 0.9, 0.91]


def test_two_commands_with_one_key_do_not_overwrite_each_other(tmp_path: Path) -> None:
    report.keep("engine", {"lora8_vs_base": estimate(SEVEN)}, out=tmp_path)
    path = report.keep("peers", {"lora8_vs_base": estimate([0.5] * 7)}, out=tmp_path)
    kept = json.loads(path.read_text())
    assert kept["engine"]["lora8_vs_base"]["value"]["median"] == 0.91
    assert kept["engine"]["lora8_vs_base"]["value"]["values"] == SEVEN
    assert kept["peers"]["lora8_vs_base"]["value"]["median"] == 0.5
    assert path.parent.parent == tmp_path


def test_a_row_that_is_not_measured_again_stays_with_its_date(tmp_path: Path) -> None:
    path = report.keep("engine", {"a": 1.0, "b": 2.0}, out=tmp_path)
    first = json.loads(path.read_text())["engine"]
    report.keep("engine", {"b": 3.0}, out=tmp_path)
    second = json.loads(path.read_text())["engine"]
    assert second["a"] == first["a"]
    assert (second["b"]["value"], bool(second["b"]["of"]["date"])) == (3.0, True)


def test_a_quick_run_leaves_the_results_alone(tmp_path: Path) -> None:
    path = report.keep("engine", {"a": 1.0}, out=tmp_path)
    before = path.read_text()
    assert report.keep("engine", {"a": 2.0}, quick=True, out=tmp_path) != path
    assert path.read_text() == before


def test_a_quick_run_says_so_and_has_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    report.show("engine", {"lora8_vs_base": estimate(SEVEN)}, quick=True)
    printed = capsys.readouterr().out
    assert "QUICK" in printed
    assert "reached" not in printed
    report.show("engine", {"lora8_vs_base": estimate(SEVEN)})
    printed = capsys.readouterr().out
    assert "QUICK" not in printed
    assert "reached" in printed


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (estimate(SEVEN), "key 0.910 (0.890 - 0.930, 7 rounds)"),
        (12.34, "key 12.3"),
        ({"p50": 137.2, "p99": 1.5}, "key p50: 137 p99: 1.500"),
        (
            "oneDNN does not multiply bfloat16 on this CPU",
            "key oneDNN does not multiply bfloat16 on this CPU",
        ),
    ],
)
def test_a_row_of_each_kind(value: report.Value, expected: str) -> None:
    assert " ".join(report.line("key", value, "AMD, AVX2").split()) == expected


def test_the_curve_is_drawn_with_all_its_points() -> None:
    drawn = draw({"1": 496.0, "8": 492.0, "64": 467.0})
    assert drawn.count("<circle") == 3
    assert all(f">{value}<" in drawn for value in (496, 492, 467))
