"""Child processes under supervision, with small programs in the services' place."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loramux.cli.embedded.data_dir import DataDirInUseError, DataDirLock
from loramux.cli.embedded.supervision import EmbeddedError, Event, Places, ServiceProcess, StoppedError
from tests.support.paths import REPOSITORY

SERVICE = """
import os, signal, sys, threading
mode = os.environ["MODE"]
if mode == "broken":
    print('{"event": "settings_wrong", "field": "port"}', flush=True)
    sys.exit(3)
stopped = threading.Event()
signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "hangs" else lambda *_: stopped.set())
with open(os.environ["ADDRESS_FILE"] + ".part", "w") as file:
    file.write(f"127.0.0.1:{os.environ.get('PORT', '4000')}")
os.replace(os.environ["ADDRESS_FILE"] + ".part", os.environ["ADDRESS_FILE"])
stopped.wait()
print("drained", flush=True)
"""


class Events:
    """What was told, in order; waiting for what is to come."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Event] = queue.Queue()

    def __call__(self, event: Event) -> None:
        self._queue.put(event)

    def until(self, kind: str) -> Event:
        while True:
            event = self._queue.get(timeout=30)
            if event.kind == kind:
                return event


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def hurry() -> threading.Event:
    return threading.Event()


def make(tmp_path: Path, events: Events, mode: str = "works") -> ServiceProcess:
    (tmp_path / "small_service.py").write_text(SERVICE)
    places = Places(
        log=tmp_path / "service.log", address_file=tmp_path / "service.address", folder=tmp_path / "run"
    )
    places.folder.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "MODE": mode,
        "ADDRESS_FILE": str(places.address_file),
    }
    return ServiceProcess(
        "service", "small_service", environment, places, on_event=events, port_variable="PORT"
    )


@pytest.fixture
def service(tmp_path: Path, events: Events, hurry: threading.Event) -> Iterator[ServiceProcess]:
    service = make(tmp_path, events)
    yield service
    hurry.set()
    service.stop(0, hurry)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_service_starts_drains_and_is_gone(
    service: ServiceProcess, tmp_path: Path, hurry: threading.Event
) -> None:
    service.spawn()
    service.wait_until_ready()
    assert service.address == "127.0.0.1:4000"
    process = service.pid
    service.supervise()
    service.stop(30, hurry)
    assert not is_alive(process)
    assert (tmp_path / "service.log").read_text() == "drained\n"
    service.stop(30, hurry)  # a second stop finds nothing to do


def test_a_service_that_dies_is_started_again_at_its_address(service: ServiceProcess, events: Events) -> None:
    service.spawn()
    service.wait_until_ready()
    events.until("ready")
    service.supervise()
    first = service.pid
    os.kill(first, signal.SIGKILL)
    assert events.until("died").detail == "was killed by SIGKILL; starting again in 0.5 s"
    assert events.until("ready").detail == "127.0.0.1:4000"
    assert service.pid != first


def test_a_service_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path, events: Events) -> None:
    service = make(tmp_path, events, "broken")
    service.spawn()
    with pytest.raises(
        EmbeddedError, match=r"ended with status 3 before it was ready.*\n.*settings_wrong field=port"
    ):
        service.wait_until_ready()
    service.stop(0, threading.Event())


def test_a_service_that_hangs_is_killed(tmp_path: Path, events: Events, hurry: threading.Event) -> None:
    service = make(tmp_path, events, "hangs")
    service.spawn()
    service.wait_until_ready()
    service.supervise()
    process = service.pid
    service.stop(0.1, hurry)
    assert events.until("killed").service == "service"
    assert not is_alive(process)


def test_a_drain_can_be_cut_short(tmp_path: Path, events: Events, hurry: threading.Event) -> None:
    service = make(tmp_path, events, "hangs")
    service.spawn()
    service.wait_until_ready()
    stopping = threading.Thread(target=service.stop, args=[3600, hurry])
    stopping.start()
    events.until("stopping")
    hurry.set()
    stopping.join(30)
    assert not stopping.is_alive()


def test_stopping_while_it_waits_to_start_again_ends_it(
    service: ServiceProcess, events: Events, hurry: threading.Event
) -> None:
    service.spawn()
    service.wait_until_ready()
    service.supervise()
    os.kill(service.pid, signal.SIGKILL)
    events.until("died")
    service.stop(30, hurry)
    with pytest.raises(StoppedError):
        service.spawn()


def test_services_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "small_service.py").write_text(SERVICE)
    address = tmp_path / "service.address"
    parent = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'loramux.cli.embedded.child', 'small_service'],"
        " stdin=subprocess.PIPE, start_new_session=True)\n"
        "while not os.path.exists(os.environ['ADDRESS_FILE']): time.sleep(0.01)\n"
        "print('ready', flush=True)\n"
        "child.wait()\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)]),
        "MODE": "works",
        "ADDRESS_FILE": str(address),
    }
    with subprocess.Popen(
        [sys.executable, "-c", parent], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        # The child writes to the same pipe when it has drained, and the pipe ends when the child does.
        assert process.stdout.read() == "drained\n"


def test_a_data_folder_has_one_user_at_a_time(tmp_path: Path) -> None:
    first, second = DataDirLock(tmp_path), DataDirLock(tmp_path)
    first.take(lambda: None)
    with pytest.raises(DataDirInUseError, match=f"process {os.getpid()}"):
        second.take(lambda: None)
    first.release()
    second.take(lambda: None)
    second.release()


def test_services_of_a_killed_parent_are_waited_for(tmp_path: Path) -> None:
    """They hold the lock that their parent took, and it names a process that is gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    first, second = DataDirLock(tmp_path), DataDirLock(tmp_path)
    first.take(lambda: None)
    (tmp_path / "lock").write_text(str(gone.pid))
    second.take(first.release)
    second.release()
