"""What holds for every test."""

import signal

# Whoever starts the tests in the background of a shell has them ignore Ctrl-C, and so would the programs that they start
# and then interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
