"""Our engine beside vLLM, transformers and PEFT in one run: `make bench-peers`.

Each peer is a process of its own, stopped while another has its turn. vLLM gets both cores, tcmalloc and Intel's
OpenMP, as docs/performance.md says; its environment is named by --vllm, and without one its rows are left out.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.adapters import make_adapters
from bench.engine import QUICK_ROUNDS, ROUNDS
from bench.peer.first_tokens import agreement
from bench.peer.process import Peer, vllm_environment, write_job
from bench.results import report
from bench.results.ratios import estimate, ratio
from bench.rows.setup import warm_engine
from bench.scale import FULL, QUICK, Scale
from bench.turns import Candidate, take_turns
from bench.workload import BASE_ONLY, Workload, ask_all
from loramux.profile import home
from services.worker.engine.interface import AdapterFiles
from services.worker.engine.local.engine_config import EngineConfig
from services.worker.engine.local.local_engine import LocalEngine
from tests.support.paths import BASE

SCRIPTS = Path(__file__).parent / "peer"
COMPARED = 16
"""First tokens of each prompt."""

Said = dict[str, Sequence[Sequence[int]]]
"""[requests][tokens] token ids of a candidate's latest round, by its name."""


@dataclass(frozen=True)
class Field:
    """All who take part. vLLM's are None where it is not installed."""

    engine: LocalEngine
    adapters: Sequence[AdapterFiles]
    vllm_base: Peer | None
    vllm_lora: Peer | None
    transformers: Peer
    peft: Peer
    said: Said

    def ours(self, name: str, workload: Workload, adapters: Sequence[AdapterFiles | None]) -> Candidate:
        """Our engine's turn."""

        async def measure(_number: int) -> float:
            started = time.perf_counter()
            answers = await ask_all(self.engine, workload, adapters)
            seconds = time.perf_counter() - started
            self.said[name] = [one.token_ids for one in answers]
            return sum(len(one.token_ids) for one in answers) / seconds

        return Candidate(name, measure)

    def theirs(self, name: str, workload: Workload, peer: Peer | None) -> list[Candidate]:
        """A peer's turn; nobody's where it is not there."""

        async def measure(_number: int) -> float:
            assert peer is not None
            found = await asyncio.to_thread(peer.run, workload)
            self.said[name] = found.token_ids
            return found.speed

        return [] if peer is None else [Candidate(name, measure)]


async def compare(field: Field, scale: Scale, rounds: int) -> dict[str, report.Value]:
    """Candidates take turns within each comparison, ours beside theirs."""
    many, alone = scale.workload(), scale.workload(requests=1)
    prefill = scale.workload(requests=scale.prefill_requests, prompt=scale.prefill_prompt, new=1)
    found = await take_turns(
        [
            field.ours("ours", many, BASE_ONLY),
            *field.theirs("vllm", many, field.vllm_base),
            *field.theirs("transformers", many, field.transformers),
        ],
        rounds,
    )
    lora = await take_turns(
        [
            field.ours("ours", many, BASE_ONLY),
            field.ours("ours lora8", many, field.adapters),
            *field.theirs("vllm lora8", many, field.vllm_lora),
            *field.theirs("peft lora8", many, field.peft),
        ],
        rounds,
    )
    results: dict[str, report.Value] = {
        "base_tok_s": estimate(found["ours"]),
        "lora8_tok_s": estimate(lora["ours lora8"]),
        "lora8_vs_base": ratio(lora, "ours lora8", "ours"),
        "base_vs_transformers": ratio(found, "ours", "transformers"),
        "lora8_vs_peft": ratio(lora, "ours lora8", "peft lora8"),
    }
    results |= first_tokens(field.said)
    if field.vllm_base is None:
        return results
    one = await take_turns(
        [
            field.ours("ours, one", alone, BASE_ONLY),
            *field.theirs("vllm, one", alone, field.vllm_base),
        ],
        rounds,
    )
    prompts = await take_turns(
        [
            field.ours("ours, prefill", prefill, BASE_ONLY),
            *field.theirs("vllm, prefill", prefill, field.vllm_base),
        ],
        rounds,
    )
    return results | {
        "base_vs_vllm": ratio(found, "ours", "vllm"),
        "lora8_vs_vllm": ratio(lora, "ours lora8", "vllm lora8"),
        "single_stream_tok_s": estimate(one["ours, one"]),
        "single_stream_vs_vllm": ratio(one, "ours, one", "vllm, one"),
        "prefill_tok_s_vs_vllm": ratio(prompts, "ours, prefill", "vllm, prefill"),
    }


def first_tokens(said: Said) -> dict[str, report.Value]:
    """Agreement on the first token, ours with each peer's; and what the peers say among themselves, beside it."""
    firsts: dict[str, report.Value] = {}
    shares = {}
    for key, a, b in (
        ("first_token_vs_vllm", "ours", "vllm"),
        ("first_token_vs_transformers", "ours", "transformers"),
        ("lora8_first_token_vs_vllm", "ours lora8", "vllm lora8"),
        ("lora8_first_token_vs_peft", "ours lora8", "peft lora8"),
        ("vllm_first_token_vs_transformers", "vllm", "transformers"),
        ("vllm_lora8_first_token_vs_peft", "vllm lora8", "peft lora8"),
    ):
        if a in said and b in said:
            ours, theirs = ([tokens[:COMPARED] for tokens in said[name]] for name in (a, b))
            found = agreement(ours, theirs)
            firsts[key], shares[f"{a} and {b}"] = found.first, found.all
    return {**firsts, f"equal_of_first_{COMPARED}": shares}


async def run(venv: Path, scale: Scale, rounds: int) -> dict[str, report.Value]:
    """Start everybody, compare, end everybody. Raises RuntimeError where a peer does not come up or ends."""
    adapters = make_adapters(home() / "bench" / "adapters", 8, base=scale.base)
    prompts = scale.workload(prompt=max(scale.prompt, scale.prefill_prompt)).prompts()
    engine = await warm_engine(EngineConfig(scale.base, dtype="bfloat16", prefix_cache=False), scale)
    vllm = venv / "bin" / "python"
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        jobs = {
            kind: write_job(Path(name) / f"{kind}.json", scale.base, files, prompts)
            for kind, files in (("base", ()), ("lora", adapters))
        }

        def start(name: str, script: str, python: Path, kind: str, environment: dict[str, str]) -> Peer:
            command = [str(python), str(SCRIPTS / script), jobs[kind]]
            return stack.enter_context(Peer(name, command, environment))

        installed, environment = vllm.exists(), vllm_environment(venv)
        if not installed:
            print(f"  vLLM is not installed in {venv}: its rows are left out")
        ours = Path(sys.executable)
        field = Field(
            engine,
            adapters,
            start("vllm", "peer_vllm.py", vllm, "base", environment) if installed else None,
            start("vllm lora8", "peer_vllm.py", vllm, "lora", environment) if installed else None,
            start("transformers", "peer_transformers.py", ours, "base", {}),
            start("peft lora8", "peer_transformers.py", ours, "lora", {}),
            {},
        )
        results = await compare(field, scale, rounds)
    await engine.stop()
    return results


def main() -> None:
    """Run the comparison, print the table, write it under bench/out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", type=Path, default=home() / "bench" / "vllm", help="vLLM's environment")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}, with --quick {QUICK_ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="less of everything, to see that it runs")
    options = parser.parse_args()
    # transformers has no fast bfloat16 on CPUs without AVX-512: eight requests of it are long enough.
    scale = replace(QUICK, requests=8, new=COMPARED) if options.quick else FULL
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    torch.set_num_threads(EngineConfig(BASE).resolved_threads())
    # Peers are stopped, so that no hang-up would end them: whoever ends this process ends them too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    results = asyncio.run(run(options.vllm, scale, rounds))
    report.keep("peers", results, quick=scale.quick)
    report.show("peers", results, quick=scale.quick)


if __name__ == "__main__":
    main()
