"""Where the real weights of the tests are."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BASE = (
    Path(os.environ.get("LORAMUX_HOME") or Path.home() / ".cache" / "loramux")
    / "bases"
    / "smollm2-135m-instruct"
)
ADAPTERS = REPOSITORY / "examples" / "adapters"
