"""SIGTERM, SIGINT and SIGHUP as a wish to stop that the training loop can grant in its own time."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def heard() -> list[int]:
    """Those of STOPPING that are not ignored; nohup has a command ignore SIGHUP."""
    return [signum for signum in STOPPING if signal.getsignal(signum) != signal.SIG_IGN]


class Interrupted(Exception):
    """The wish came inside `interruptible`."""


class StopRequest:
    """Context in which the first signal is only noted, in `received`; a second acts at once.

    Outside of the main thread Python gives no signals, and nothing is changed; nor where not
    `enabled`, in runs of several processes, of which jax itself watches the signals.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.received: int | None = None
        self._enabled = enabled
        self._previous: dict[int, object] = {}
        self._interruptible = False

    def __enter__(self) -> "StopRequest":
        if self._enabled and threading.current_thread() is threading.main_thread():
            for signum in heard():
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

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
        self._restore()
        with contextlib.suppress(OSError):  # the terminal is gone, or the disk of the log is full
            os.write(2, b"\nstopping: the state is saved first (once more: leave at once)\n")
        if self._interruptible:
            raise Interrupted

    def _restore(self) -> None:
        while self._previous:
            signum, handler = self._previous.popitem()
            signal.signal(signum, handler)
