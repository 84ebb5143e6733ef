"""The embedded profile with its real services, a miniature base model and a local hub."""

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import loramux
from loramux import errors, profile
from loramux.cli.embedded.data_dir import DataDirLock
from loramux.cli.embedded.embedded_services import BaseModel, Embedded, EmbeddedConfig, Event
from loramux.localhub import LocalHub, running
from tests.support.models import CHAT_TEMPLATE, write_random_adapter, write_tiny_base
from tests.support.paths import REPOSITORY

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("embedded")]

TOKEN = "hf_alice"
CREDIT = 10**12


@dataclass(frozen=True)
class Line:
    """Everything that runs, and how to reach it."""

    services: Embedded
    hub: LocalHub
    config: EmbeddedConfig
    events: "queue.Queue[Event]"
    key: str

    def cli(self, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        return run_cli(
            *arguments,
            stdin=stdin,
            LORAMUX_TARGET=self.services.target,
            LORAMUX_API_KEY=self.key,
        )


def run_cli(*arguments: str, stdin: str = "", **variables: str) -> "subprocess.CompletedProcess[str]":
    result = subprocess.run(
        [sys.executable, "-m", "loramux.cli.main", *arguments],
        input=stdin,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_base(tmp_path_factory.mktemp("base") / "tiny")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def line(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    folder = tmp_path_factory.mktemp("line")
    hub = LocalHub(folder / "hub")
    hub.add_token(TOKEN, "alice")
    for number, (repo, private) in enumerate((("acme/open", False), ("acme/secret", True))):
        adapter = write_random_adapter(
            folder / repo.replace("/", "-"), base, seed=number + 1, base_name="acme/tiny"
        )
        hub.add_repo(repo, adapter, private=private)
    events: queue.Queue[Event] = queue.Queue()
    with running(hub) as endpoint:
        config = EmbeddedConfig(
            data_dir=folder / "data",
            bases=[BaseModel(name="tiny", hub_ids=("acme/tiny",), local_path=base)],
            hub_endpoint=endpoint,
            worker={"THREADS": "1"},
        )
        with Embedded(config, on_event=events.put) as services:
            key = services.key_of("acme", credit_pico_usd=CREDIT)
            with loramux.SyncClient(services.target, key) as client:
                client.create_deployment("open", "acme/open")
                client.wait_until_running("acme/open", timeout=60)
            yield Line(services, hub, config, events, key)
    hub.close()


async def test_base_and_adapters_answer_at_once_and_the_bill_is_exact(line: Line) -> None:
    key = await asyncio.to_thread(line.services.key_of, "payer", credit_pico_usd=CREDIT)
    async with loramux.Client(line.services.target, key) as client:
        [base] = await client.list_base_models()
        assert base.name == "tiny"
        await client.create_deployment("open", "acme/open")
        await client.wait_until_running("payer/open", timeout=60)
        await client.create_deployment("locked", "acme/secret")
        with pytest.raises(loramux.DeploymentFailedError) as locked:
            await client.wait_until_running("payer/locked", timeout=60)
        assert locked.value.reason == "HUB_REPO_PRIVATE"
        await client.create_deployment("secret", "acme/secret", hub_token=TOKEN)
        await client.wait_until_running("payer/secret", timeout=60)

        names = ["tiny", "payer/open", "payer/secret"]
        streams = [
            client.generate(name, "The quick brown", temperature=0, max_tokens=12, ignore_eos=True)
            for name in names
        ]
        texts = await asyncio.gather(*(stream.text() for stream in streams))
        assert len(set(texts)) == 3
        base_cost, *lora_costs = [stream.completion.cost.total_pico_usd for stream in streams]
        assert [2 * cost for cost in lora_costs] == [3 * base_cost] * 2
        bill = await client.get_bill()
        assert {item.model: item.total_pico_usd for item in bill.lines} == dict(
            zip(names, [base_cost, *lora_costs], strict=True)
        )
        assert (await client.get_account()).balance.available_pico_usd == CREDIT - bill.total_pico_usd


def test_the_commands_reach_the_same_services(line: Line) -> None:
    assert "tiny" in line.cli("models").stdout
    done = line.cli("deploy", "by-command", "acme/secret", "--token-stdin", stdin=f"{TOKEN}\n")
    assert (done.returncode, done.stdout) == (0, "acme/by-command\n"), done.stderr
    failed = line.cli("deploy", "no-such", "acme/missing")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("error: no public Hub repo acme/missing")
    options = ("-n", "8", "-t", "0")
    answer = line.cli("generate", "acme/by-command", "The quick brown", *options)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()
    talk = line.cli("chat", "acme/by-command", *options, stdin="hello\nagain\n")
    assert talk.returncode == 0, talk.stderr
    usage = json.loads(line.cli("usage", "--json", "-n", "3").stdout)
    assert [record["model"] for record in usage] == ["acme/by-command"] * 3
    assert line.cli("deployments", "delete", "by-command").stdout == "acme/by-command\n"
    gone = line.cli("generate", "acme/by-command", "The quick brown", *options)
    assert gone.returncode == 1
    assert "error:" in gone.stderr


def test_the_client_examples_run_as_they_are(line: Line) -> None:
    variables = {"LORAMUX_TARGET": line.services.target, "LORAMUX_API_KEY": line.key}
    for script, *arguments in (
        ("python_sync.py", "example", "acme/open", "hello"),
        ("python_async.py", "hello"),
    ):
        result = subprocess.run(
            [sys.executable, str(REPOSITORY / "examples" / "clients" / script), *arguments],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        assert " USD" in result.stdout


def test_a_killed_worker_ends_its_streams_and_comes_back(line: Line) -> None:
    with loramux.SyncClient(line.services.target, line.key) as client:
        while not line.events.empty():
            line.events.get()
        stream = client.generate("tiny", "The quick brown", max_tokens=900, ignore_eos=True)
        chunks = iter(stream)
        next(chunks)
        os.kill(line.services.pids["worker"], signal.SIGKILL)
        killed = time.monotonic()
        with pytest.raises(errors.UnavailableError):
            list(chunks)
        assert time.monotonic() - killed < 5  # what the issue promises
        while line.events.get(timeout=60).kind != "ready":
            pass
        assert client.generate("tiny", "The quick brown", max_tokens=4, ignore_eos=True).text()


def test_a_restarted_gateway_and_registry_keep_address_key_and_deployments(line: Line) -> None:
    before = dict(line.services.addresses)
    for name in ("registry", "gateway"):
        os.kill(line.services.pids[name], signal.SIGKILL)
    ready: set[str] = set()
    while not {"registry", "gateway"} <= ready:
        event = line.events.get(timeout=60)
        if event.kind == "ready":
            ready.add(event.service)
    assert {name: line.services.addresses[name] for name in ready} == {name: before[name] for name in ready}
    assert line.services.key_of("acme", credit_pico_usd=0) == line.key
    with loramux.SyncClient(line.services.target, line.key) as client:
        client.wait_until_running("acme/open", timeout=60)


@pytest.fixture
def home(base: Path, tmp_path: Path) -> Path:
    """Where `loramux up` finds a base model that is whole, and small."""
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "smollm2-135m-instruct").symlink_to(base)
    return tmp_path


def up(home: Path, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "loramux.cli.main", "up", *options],
        env={**os.environ, "LORAMUX_HOME": str(home), "LORAMUX_WORKER_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_line(process: "subprocess.Popen[str]", words: str) -> list[str]:
    assert process.stderr is not None
    lines = []
    for text in process.stderr:
        lines.append(text)
        if words in text:
            return lines
    raise AssertionError("".join(lines))


def nothing_runs(home: Path) -> bool:
    """Every service holds the folder's lock for as long as it lives."""
    lock = DataDirLock(home / "embedded")
    lock.take(lambda: pytest.fail("a service still runs"))
    lock.release()
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_shows_a_key_that_works_and_stops_cleanly(
    home: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("LORAMUX_HOME", str(home))
    with up(home, "--account", "acme") as process:
        shown = wait_for_line(process, "Ctrl-C stops")
        current = profile.load()
        assert current is not None
        assert any(current.api_key in text for text in shown)
        with loramux.SyncClient() as client:
            assert client.get_account().name == "acme"
            assert [one.name for one in client.list_base_models()] == ["smollm2-135m-instruct"]
        second = run_cli("up", LORAMUX_HOME=str(home))
        assert second.returncode == 1
        assert f"in use by another `loramux up` (process {process.pid})" in second.stderr
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert profile.load() is None
    assert nothing_runs(home)


def test_up_stops_even_when_a_service_hangs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with up(home) as process:
        wait_for_line(process, "Ctrl-C stops")
        children = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
        assert len(children) == 3
        for child in children:
            os.kill(int(child), signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        wait_for_line(process, "stopping")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "was killed" in err
    assert nothing_runs(home)


def test_up_shows_why_a_service_did_not_start(home: Path) -> None:
    result = run_cli("up", "--dtype", "nonsense", LORAMUX_HOME=str(home))
    assert result.returncode == 1
    assert "error: worker ended with status 2 before it was ready" in result.stderr
    assert "--dtype" in result.stderr
    assert nothing_runs(home)
