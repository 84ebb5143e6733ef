"""A peer as a process that loads once, and is stopped while it is not asked, so that nothing of it runs."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.workload import Workload
from services.worker.engine.interface import AdapterFiles


@dataclass(frozen=True)
class Round:
    """A peer's answer to one command."""

    speed: float
    """New tokens a second."""
    token_ids: Sequence[Sequence[int]]
    """[requests][new]"""


class Peer:
    """A line `requests prompt new` asks for a round; a line `answer JSON` is a Round."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Raises RuntimeError with the end of its log where it does not come up."""
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(  # noqa: S603 - our own scripts
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            # A script's own folder is no place for imports.
            env={**os.environ, "PYTHONSAFEPATH": "1", **environment},
            start_new_session=True,
        )
        print(f"  starting {name}", flush=True)
        try:
            self._until("ready")
        except RuntimeError:
            self._end()
            raise
        os.killpg(self._process.pid, signal.SIGSTOP)

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._end()

    def _end(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def run(self, workload: Workload) -> Round:
        """One round of a workload, whose prompts the peer has from its job."""
        assert self._process.stdin is not None
        os.killpg(self._process.pid, signal.SIGCONT)
        self._process.stdin.write(f"{workload.requests} {workload.prompt} {workload.new}\n")
        self._process.stdin.flush()
        answer = json.loads(self._until("answer").removeprefix("answer"))
        os.killpg(self._process.pid, signal.SIGSTOP)
        return Round(answer["speed"], answer["token_ids"])

    def _until(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line
        self._log.seek(0)
        raise RuntimeError(f"{self.name} ended: {self._log.read()[-2000:].decode()}")


def write_job(
    path: Path, base: Path, adapters: Sequence[AdapterFiles], prompts: Sequence[Sequence[int]]
) -> str:
    """What a peer is told, as a file; returns its path. A round takes the first tokens of the first prompts."""
    folders = [str(one.folder) for one in adapters]
    path.write_text(json.dumps({"base": str(base), "adapters": folders, "prompts": prompts}))
    return str(path)


def vllm_environment(venv: Path) -> dict[str, str]:
    """Both cores: by itself vLLM keeps one for itself, which on two cores halves it."""
    cores = sorted(os.sched_getaffinity(0))
    preload = ["/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4", str(venv / "lib" / "libiomp5.so")]
    return {
        "VLLM_CPU_OMP_THREADS_BIND": f"{cores[0]}-{cores[-1]}",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "OMP_NUM_THREADS": str(len(cores)),
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "LD_PRELOAD": ":".join(path for path in preload if Path(path).exists()),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
    }
