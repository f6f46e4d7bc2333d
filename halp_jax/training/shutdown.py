"""How a run ends: by a signal, when its state is saved; of many processes all together, with a line.

What all of them know (AgreedError) ends each by itself. What one alone has met it tells the others
through the coordination service of `jax.distributed`, where a thread of theirs looks: none is left to
wait in a sum that never comes. Where one is gone without a word, the others lose its connection, or
its heartbeat.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import jax
from orbax.checkpoint import multihost

from halp_jax.errors import UserError

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_FAILED, _SEEN = "halp_jax/failed", "halp_jax/seen"  # keys of the coordination service
_LOOK_EVERY, _WAIT_FOR_OTHERS = 0.25, 3.0  # seconds
_ending = threading.Lock()  # whose thread holds it ends this process; the others keep still


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


class AgreedError(UserError):
    """What went wrong is known to all processes: each ends by itself."""


def describe(error: BaseException) -> str:
    """Any error in one line."""
    reason = " ".join(str(error).split())[:500]
    if isinstance(error, UserError):
        return reason
    kind = type(error).__name__
    if isinstance(error, jax.errors.JaxRuntimeError) and jax.distributed.is_initialized():
        reason = (
            f"{reason[:300]}: where another process was lost, see what that one said; the same "
            "command, started in all of them, resumes from the newest checkpoint"
        )
    return f"{kind}: {reason}" if reason else kind


def leave(error: BaseException, status: int = 1) -> int:
    """The exit status of a command that ends with this error.

    Does not return in a run of many processes where this one alone has met it: then all end here.
    """
    if not jax.distributed.is_initialized() or isinstance(error, AgreedError):
        return status
    if not _ending.acquire(blocking=False):
        threading.Event().wait()
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(Exception):  # the service may be gone already
        client = multihost.get_jax_distributed_client()
        client.key_value_set(_FAILED, f"process {jax.process_index()}: {describe(error)}")
        _wait_until_seen(client, jax.process_count() - 1, _WAIT_FOR_OTHERS)
        _part(client)
    # Whoever waits at the normal end of a program waits for all: none of that here.
    os._exit(status)


def _part(client: Any) -> None:
    """What comes before the end: process 0, which holds the service, is the last to go."""
    client.key_value_set(f"{_SEEN}/{jax.process_index()}", "")
    if jax.process_index() == 0:
        _wait_until_seen(client, jax.process_count(), 2 * _WAIT_FOR_OTHERS)
        time.sleep(_LOOK_EVERY)


def _wait_until_seen(client: Any, count: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and len(client.key_value_dir_get(_SEEN)) < count:
        time.sleep(_LOOK_EVERY / 4)


def listen() -> None:
    """Starts the thread that ends this process when another one says that it has failed."""
    client = multihost.get_jax_distributed_client()
    done = threading.Event()

    def look() -> None:
        while not done.wait(_LOOK_EVERY):
            try:
                message = client.key_value_try_get(_FAILED)
            except Exception:  # nothing there; or the service is gone, which jax sees
                continue
            if not _ending.acquire(blocking=False):
                return
            with contextlib.suppress(Exception):
                _part(client)
            print(f"error: {message}", file=sys.stderr, flush=True)
            os._exit(1)

    def stop() -> None:
        done.set()
        thread.join()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    atexit.register(stop)  # before jax, which was registered sooner, shuts its client down
