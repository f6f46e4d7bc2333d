"""SIGTERM, SIGINT and SIGHUP as a wish to stop that the training loop can grant in its own time."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextlib.contextmanager
def handled(
    handler: Callable[[int, FrameType | None], None],
    signums: Sequence[int] = STOPPING,
    once: bool = False,
) -> Iterator[None]:
    """These signals call `handler`; with `once` the first alone, and a second acts at once.

    Not those that are ignored: nohup has a command ignore SIGHUP. Outside of the main thread Python
    gives no signals, and nothing is changed.
    """
    previous: dict[int, object] = {}

    def restore() -> None:
        while previous:
            signum, handler = previous.popitem()
            signal.signal(signum, handler)

    def handle(signum: int, frame: FrameType | None) -> None:
        if once:
            restore()
        handler(signum, frame)

    try:
        if threading.current_thread() is threading.main_thread():
            for signum in signums:
                if signal.getsignal(signum) != signal.SIG_IGN:
                    previous[signum] = signal.signal(signum, handle)
        yield
    finally:
        restore()


class Interrupted(Exception):
    """The wish came inside `interruptible`."""


class StopRequest(contextlib.ExitStack):
    """Context in which the first signal is only noted, in `received`; a second acts at once.

    Not where not `enabled`, in runs of several processes, of which jax itself watches the signals.
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        self.received: int | None = None
        self._signums = STOPPING if enabled else ()
        self._interruptible = False

    def __enter__(self) -> "StopRequest":
        self.enter_context(handled(self._note, self._signums, once=True))
        return self

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Work that may be broken off: the signal raises `Interrupted` in it."""
        if self.received:
            raise Interrupted
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = signum
        with contextlib.suppress(OSError):  # the terminal is gone, or the disk of the log is full
            os.write(2, b"\nstopping: the state is saved first (once more: leave at once)\n")
        if self._interruptible:
            raise Interrupted
