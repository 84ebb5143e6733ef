"""Runs a module as a program that ends when its parent does: `python -m loramux.cli.embedded.child services.worker`.

The parent holds the other end of this process' stdin and never writes to it. However the parent ends, SIGKILL
included, stdin then ends too, and the module gets the SIGTERM that it drains on.
"""

import os
import runpy
import signal
import sys
import threading
import time

SECONDS_TO_DRAIN = 15.0
"""What a module gets after its parent has gone; then it is cut off."""


def main() -> None:
    """Run the module that is the first argument."""
    threading.Thread(target=_follow_parent, name="follow-parent", daemon=True).start()
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _follow_parent() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_DRAIN)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
