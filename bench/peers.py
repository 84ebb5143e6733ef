"""Our engine beside vLLM, transformers and PEFT in one run: `make bench-peers`.

Each peer is a process that loads once; those whose turn it is not are stopped, so that nothing of them runs. vLLM gets
both cores, tcmalloc and Intel's OpenMP, as docs/performance.md says; its environment is named by --vllm.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from bench import report
from bench.adapters import make_adapters
from bench.workload import Workload, tokens_per_second
from loramux.profile import home
from services.worker.engine.interface import AdapterFiles
from services.worker.engine.local.engine_config import EngineConfig
from services.worker.engine.local.local_engine import LocalEngine
from tests.support.paths import BASE

HERE = Path(__file__).parent
SHAPES: Mapping[str, Workload] = {
    "32": Workload(),
    "1": Workload(requests=1),
    "prefill": Workload(prompt=512, new=1),
}


class Peer:
    """A peer's process, stopped while it is not asked."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(  # noqa: S603 - our own scripts
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            # A script's own folder is no place for imports: it has a kernels.py too.
            env={**os.environ, "PYTHONSAFEPATH": "1", **environment},
            start_new_session=True,
        )
        print(f"  starting {name}", flush=True)
        self._until("ready")
        os.killpg(self._process.pid, signal.SIGSTOP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def speed(self, workload: Workload) -> float:
        """New tokens a second."""
        assert self._process.stdin is not None
        os.killpg(self._process.pid, signal.SIGCONT)
        self._process.stdin.write(f"{workload.requests} {workload.prompt} {workload.new}\n")
        self._process.stdin.flush()
        answer = float(self._until("speed").split()[1])
        os.killpg(self._process.pid, signal.SIGSTOP)
        return answer

    def _until(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line
        self._log.seek(0)
        raise RuntimeError(f"{self.name} ended: {self._log.read()[-2000:].decode()}")


@dataclass(frozen=True)
class Job:
    """What a peer is told, as a file."""

    folder: Path
    adapters: Sequence[AdapterFiles]

    def path(self, *, lora: bool) -> str:
        """The file's path."""
        prompts = Workload(prompt=512).prompts()
        file = self.folder / f"{'lora' if lora else 'base'}.json"
        adapters = [str(one.folder) for one in self.adapters] if lora else []
        file.write_text(json.dumps({"base": str(BASE), "adapters": adapters, "prompts": prompts}))
        return str(file)


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


async def run(venv: Path, rounds: int) -> dict[str, report.Value]:
    """Medians of our engine and of every peer, which take turns."""
    adapters = make_adapters(home() / "bench" / "adapters", 8)
    engine = await LocalEngine.start(EngineConfig(BASE, dtype="bfloat16", prefix_cache=False))
    await tokens_per_second(engine, Workload(4, 64, 4), [None])
    measured: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Path(folder), adapters)
        python, environment = str(venv / "bin" / "python"), vllm_environment(venv)
        ours = [sys.executable, str(HERE / "peer_transformers.py")]
        vllm = [python, str(HERE / "peer_vllm.py")]
        with (
            Peer("vllm base", [*vllm, job.path(lora=False)], environment) as vllm_base,
            Peer("vllm lora", [*vllm, job.path(lora=True)], environment) as vllm_lora,
            Peer("transformers base", [*ours, job.path(lora=False)], {}) as plain,
            Peer("peft lora", [*ours, job.path(lora=True)], {}) as peft,
        ):
            for number in range(rounds + 1):  # the first warms everybody up
                found: dict[str, float] = {}
                for shape, workload in SHAPES.items():
                    found[f"ours base {shape}"] = await tokens_per_second(engine, workload, [None])
                    found[f"vllm base {shape}"] = await asyncio.to_thread(vllm_base.speed, workload)
                found["ours lora 32"] = await tokens_per_second(engine, SHAPES["32"], adapters)
                for peer in (vllm_lora, plain, peft):
                    found[f"{peer.name} 32"] = await asyncio.to_thread(peer.speed, SHAPES["32"])
                for name, speed in found.items():
                    print(f"  round {number}/{rounds}  {name:24} {speed:9.1f} tokens/s", flush=True)
                    measured.setdefault(name, []).extend([speed] if number else [])
    await engine.stop()
    median = {name: statistics.median(speeds) for name, speeds in measured.items()}
    return {
        "base_vs_vllm": median["ours base 32"] / median["vllm base 32"],
        "lora8_vs_vllm": median["ours lora 32"] / median["vllm lora 32"],
        "lora8_vs_peft": median["ours lora 32"] / median["peft lora 32"],
        "base_vs_transformers": median["ours base 32"] / median["transformers base 32"],
        "lora8_vs_base": median["ours lora 32"] / median["ours base 32"],
        "single_stream_tok_s": median["ours base 1"],
        "single_stream_vs_vllm": median["ours base 1"] / median["vllm base 1"],
        "prefill_tok_s_vs_vllm": median["ours base prefill"] / median["vllm base prefill"],
        "tokens_per_second": median,
    }


def main() -> None:
    """Run the comparison, print the table, merge it into bench/out/latest.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", type=Path, default=home() / "bench" / "vllm", help="vLLM's environment")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(EngineConfig(BASE).resolved_threads())
    report.write(asyncio.run(run(options.vllm, options.rounds)))


if __name__ == "__main__":
    main()
