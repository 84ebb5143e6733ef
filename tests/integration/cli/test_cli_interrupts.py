"""The real program as a process: Ctrl-C, closed pipes, the hub in the foreground."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from tests.support.scripted_gateway import ScriptedGateway, chunk, completion

Process = subprocess.Popen[str]


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with ScriptedGateway() as gateway:
        yield gateway


def start(*arguments: str, home: Path, target: str = "", **variables: str) -> Process:
    return subprocess.Popen(
        [sys.executable, "-m", "loramux.cli.main", *arguments],
        env={
            **os.environ,
            "LORAMUX_HOME": str(home),
            "LORAMUX_TARGET": target,
            "LORAMUX_API_KEY": "lmx_a",
            **variables,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("command", [["generate", "m", "p"], ["chat", "m"]])
def test_ctrl_c_in_a_stream_ends_the_call_at_once_and_exits_130(
    gateway: ScriptedGateway, tmp_path: Path, command: list[str]
) -> None:
    gateway.on("Generate", [chunk("half"), threading.Event()])
    with start(*command, home=tmp_path, target=gateway.target) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("hello\n")
        process.stdin.flush()
        assert process.stdout.read(4) == "half"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == "\n"
    assert "Traceback" not in err
    assert gateway.calls[0].ended.wait(10)


def test_ctrl_c_before_the_first_chunk_ends_the_call_too(gateway: ScriptedGateway, tmp_path: Path) -> None:
    gateway.on("Generate", [threading.Event()])
    with start("generate", "m", "p", home=tmp_path, target=gateway.target) as process:
        [call] = gateway.wait_for_calls(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert call.ended.wait(10)


def test_a_reader_that_leaves_ends_the_call(gateway: ScriptedGateway, tmp_path: Path) -> None:
    gate = threading.Event()
    gateway.on("Generate", [chunk("half"), gate, *[chunk("x" * 1000)] * 500, threading.Event(), completion()])
    with start("generate", "m", "p", home=tmp_path, target=gateway.target) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == "half"
        process.stdout.close()
        gate.set()
        assert process.wait(30) == 1
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    assert gateway.calls[0].ended.wait(10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_hub_command_serves_a_folder_until_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    repo = tmp_path / "hub" / "acme" / "open"
    repo.mkdir(parents=True)
    (repo / "adapter_config.json").write_text("{}")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with start("hub", str(tmp_path / "hub"), home=tmp_path, TMPDIR=str(scratch)) as process:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        info = HfApi(endpoint=endpoint, token=False).model_info("acme/open")
        assert [one.rfilename for one in info.siblings or []] == ["adapter_config.json"]
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert list(scratch.iterdir()) == []
    assert sorted(one.name for one in (tmp_path / "hub").rglob("*")) == [
        "acme",
        "adapter_config.json",
        "open",
    ]
