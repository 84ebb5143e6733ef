"""Makes what the tests need and the repository does not carry: the base model's folder. `python -m tests.prepare`."""

import subprocess
import sys

from tests.support.paths import BASE


def main() -> None:
    subprocess.run(
        [sys.executable, "-m", "services.worker.base.prepare_base", "--out", str(BASE)], check=True
    )


if __name__ == "__main__":
    main()
