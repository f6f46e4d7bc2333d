"""How the commands of evaluation end when they are asked to stop: one line, and the usual exit code."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does, with its number as the argument."""

    def interrupt(signum, frame):
        raise KeyboardInterrupt(signum)

    if threading.current_thread() is not threading.main_thread():  # Python gives it no signals
        yield
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def report(command: str, error: KeyboardInterrupt, advice: str) -> int:
    """Says in one line what a stopped command leaves behind -> its exit code."""
    signum = error.args[0] if error.args else signal.SIGINT
    print(f"{command}: stopped; {advice}", file=sys.stderr)
    return 128 + signum
