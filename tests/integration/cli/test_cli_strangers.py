"""`loramux up` in a folder of somebody else: what runs there, and what each service is told."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.integration.cli.test_cli_up import base, home, wait_for_line

__all__ = ["base", "home"]
"""Fixtures."""

SECRETS = {
    "gateway": {"GATEWAY_SECRET", "DISPATCH_SECRET"},
    "worker": {"WORKER_SECRET", "DISPATCH_SECRET"},
    "registry": {"GATEWAY_SECRET", "WORKER_SECRET", "DISPATCH_SECRET"},
}


def test_a_services_package_in_the_current_folder_is_never_run_and_no_service_has_anothers_secret(
    home: Path, tmp_path: Path
) -> None:
    """Any web project may have such a package; with our secrets in its environment it must not run."""
    folder, marker = tmp_path / "project", tmp_path / "was-run"
    mark = f"open({str(marker)!r}, 'w').close()"
    for name in SECRETS:
        package = folder / "services" / name
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(mark)
    (folder / "services" / "__init__.py").write_text(mark)
    process = subprocess.Popen(
        [Path(sys.executable).with_name("loramux"), "up"],
        cwd=folder,
        env={**os.environ, "LORAMUX_HOME": str(home), "LORAMUX_WORKER_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        wait_for_line(process, "Ctrl-C stops")
        told = {name: {key for key in of if key.endswith("_SECRET")} for name, of in services(home)}
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not marker.exists()
    assert told == {
        name: {f"LORAMUX_{name.upper()}_{secret}" for secret in secrets} for name, secrets in SECRETS.items()
    }


def services(home: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and environment of each service that runs with its state under `home`."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "environ").read_text(errors="replace")
        except OSError:
            continue
        of = dict(line.split("=", 1) for line in text.split("\0") if "=" in line)
        for name in SECRETS:
            if of.get(f"LORAMUX_{name.upper()}_ADDRESS_FILE", "").startswith(str(home)):
                yield name, of
