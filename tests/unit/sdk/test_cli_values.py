"""What the command line makes of amounts, base models, secrets and logs."""

import base64
import json
import stat
import tomllib
from pathlib import Path

import pytest

from loramux.cli import money
from loramux.cli.embedded import base_models, embedded_secrets, supervision
from loramux.cli.embedded.base_models import BaseModel


@pytest.mark.parametrize(
    ("pico", "shown"),
    [
        (0, "$0.00"),
        (2_700_000, "$0.0000027"),
        (10**13, "$10.00"),
        (1, "$0.000000000001"),
        (15 * 10**11, "$1.50"),
    ],
)
def test_amounts_are_shown_exactly(pico: int, shown: str) -> None:
    assert money.usd(pico) == shown


@pytest.mark.parametrize(("text", "pico"), [("2.50", 25 * 10**11), ("$1", 10**12), ("0.000000000001", 1)])
def test_amounts_are_read_exactly(text: str, pico: int) -> None:
    assert money.parse_usd(text) == pico


@pytest.mark.parametrize("text", ["", "much", "-1", "nan", "inf", "0.0000000000001"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="amount in USD"):
        money.parse_usd(text)


def test_prices_are_shown_by_the_million() -> None:
    assert money.per_million(20_000) == "$0.02"
    assert money.per_million(30_000) == "$0.03"


def test_the_default_base_is_the_one_that_needs_no_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAMUX_HOME", str(tmp_path))
    for given in (None, "smollm2-135m-instruct"):
        base = base_models.chosen(given)
        assert base.local_path == tmp_path / "bases" / "smollm2-135m-instruct"
        assert base.hub_repo is None


def test_a_hub_id_becomes_a_base_with_a_name_of_its_own() -> None:
    base = base_models.chosen("HuggingFaceTB/SmolLM2_135M@v1")
    assert (base.name, base.hub_repo, base.revision) == (
        "smollm2-135m",
        "HuggingFaceTB/SmolLM2_135M",
        "v1",
    )
    assert base.hub_ids == ("HuggingFaceTB/SmolLM2_135M",)


@pytest.mark.parametrize("given", ["", "llama", "a/b/c", "https://huggingface.co/a/b"])
def test_what_is_no_base_is_refused_by_value(given: str) -> None:
    with pytest.raises(ValueError, match="base is"):
        base_models.chosen(given)


def test_the_registrys_file_holds_every_base() -> None:
    bases = [
        BaseModel(name="a", hub_ids=("x/y", "x/z"), local_path=Path('/odd "path"')),
        BaseModel(name="b", hub_ids=("x/b",), hub_repo="x/b", revision="main"),
    ]
    entries = tomllib.loads(base_models.to_toml(bases))["base_model"]
    assert entries[0]["local_path"] == '/odd "path"'
    assert "hub_repo" not in entries[0]
    assert entries[1]["revision"] == "main"
    assert all(entry["prompt_pico_usd_per_token"] % 2 == 0 for entry in entries)


def test_secrets_are_made_once_and_kept_for_their_owner_alone(tmp_path: Path) -> None:
    made = embedded_secrets.load_or_make(tmp_path)
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600
    assert len(base64.b64decode(made.encryption_key)) == 32
    secrets = {made.gateway_secret, made.worker_secret, made.dispatch_secret}
    assert len(secrets) == 3
    assert all(len(secret) >= 32 for secret in secrets)
    assert made.operator_key.startswith("lmx_")
    embedded_secrets.save(tmp_path, made.with_api_key("acme", "lmx_a"))
    again = embedded_secrets.load_or_make(tmp_path)
    assert again == made.with_api_key("acme", "lmx_a")
    assert stat.S_IMODE((tmp_path / "secrets.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"operator_key": 1}'])
def test_a_secrets_file_of_another_make_is_not_overwritten(tmp_path: Path, content: str) -> None:
    (tmp_path / "secrets.json").write_text(content)
    with pytest.raises(ValueError, match=r"secrets\.json"):
        embedded_secrets.load_or_make(tmp_path)
    assert (tmp_path / "secrets.json").read_text() == content


def test_the_end_of_a_log_is_readable(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    assert "wrote nothing" in supervision.tail(log)
    event = {
        "event": "load_failed",
        "path": "/x",
        "timestamp": "2026",
        "level": "error",
        "exception": "Traceback\nValueError: no",
    }
    log.write_text("early\n" * 100 + "plain words\n" + json.dumps(event) + "\n[1]\n")
    shown = supervision.tail(log)
    assert "  plain words\n  load_failed path=/x\n  Traceback\n  ValueError: no\n  [1]" in shown
    assert "2026" not in shown
    assert len(shown.splitlines()) < 25
