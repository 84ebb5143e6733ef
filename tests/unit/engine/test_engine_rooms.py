"""What the engine's rooms bring in when they are imported."""

import subprocess
import sys

import pytest

from loramux.inference.v1 import inference_pb2
from services.gateway.answer import FinishReason


@pytest.mark.parametrize(
    "module",
    [
        "services.worker.engine.local.schedule.scheduler",
        "services.worker.engine.interface",
        "services.worker.engine.choice",
        "services.worker.worker_servicer",
    ],
)
def test_what_schedules_and_what_serves_runs_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(sum(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_gateways_finish_reasons_have_the_numbers_of_the_contract() -> None:
    public = {
        name.removeprefix("FINISH_REASON_"): number for name, number in inference_pb2.FinishReason.items()
    }
    assert {one.name: one.value for one in FinishReason} == public
