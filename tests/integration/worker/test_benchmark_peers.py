"""A peer of `make bench-peers` is asked, answers with its tokens, and does not run while another has its turn."""

import sys
import time
from pathlib import Path

import pytest

from bench.adapters import make_adapters
from bench.peer.first_tokens import agreement
from bench.peer.process import Peer, write_job
from bench.peers import SCRIPTS
from bench.workload import Workload, ask_all
from tests.support.engine import running_engine
from tests.support.models import VOCABULARY, write_tiny_base

WORKLOAD = Workload(requests=16, prompt=8, new=4, highest_token=VOCABULARY // 2)


def stopped(peer: Peer) -> bool:
    """Soon: a signal to a process is not there at once."""
    for _ in range(500):
        if Path(f"/proc/{peer.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return True
        time.sleep(0.01)
    return False


async def test_a_peer_says_what_our_engine_says(tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "base")
    adapters = make_adapters(tmp_path / "adapters", 3, base=base)
    # The job has longer prompts and more of them, as that of a whole run.
    job = write_job(
        tmp_path / "job.json",
        base,
        adapters,
        Workload(requests=20, prompt=32, highest_token=VOCABULARY // 2).prompts(),
    )
    with Peer("peer", [sys.executable, str(SCRIPTS / "peer_transformers.py"), job], {}) as peer:
        assert stopped(peer)
        rounds = [peer.run(WORKLOAD) for _ in range(2)]
        assert stopped(peer)
    assert rounds[0].token_ids == rounds[1].token_ids
    assert [len(tokens) for tokens in rounds[0].token_ids] == [4] * 16
    assert min(one.speed for one in rounds) > 0
    async with running_engine(base, dtype="bfloat16") as engine:
        ours = [one.token_ids for one in await ask_all(engine, WORKLOAD, adapters)]
    assert agreement(ours, rounds[0].token_ids).first >= 0.9


def test_a_peer_that_does_not_come_up_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such model"):
        Peer("peer", [sys.executable, "-c", "raise SystemExit('no such model')"], {})
