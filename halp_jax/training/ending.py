"""How the processes of a run end: together, promptly, and each with one line.

There are three ways. What all of them know (AgreedError) ends each by itself. What one alone has met
it tells the others through the coordination service of `jax.distributed`, where a thread of theirs
looks: none is left to wait in a sum that never comes. And where one is gone without a word, the
others lose its connection, or its heartbeat.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
from typing import Any

import jax
from jax._src import distributed  # the coordination service has no public name

from halp_jax.errors import UserError

_COUNT = "halp_jax/count"
_FAILED, _SEEN = "halp_jax/failed", "halp_jax/seen"  # keys of the coordination service
_LOOK_EVERY, _WAIT_FOR_OTHERS = 0.25, 3.0  # seconds
_ending = threading.Lock()  # whose thread holds it ends this process; the others keep still


class AgreedError(UserError):
    """What went wrong is known to all processes: each ends by itself."""


def is_loss(error: BaseException) -> bool:
    """Is it what a process meets when another one is gone?"""
    signs = ("gloo", "connection", "socket", "peer", "unavailable", "heartbeat", "nccl")
    text = str(error).lower()
    return isinstance(error, jax.errors.JaxRuntimeError) and any(sign in text for sign in signs)


def describe(error: BaseException) -> str:
    """Any error in one line."""
    reason = " ".join(str(error).split())[:500]
    if isinstance(error, UserError):
        return reason
    if is_loss(error):
        return (
            f"lost another process ({reason[:200]}): see what it said; the same command, started in "
            "all of them, goes on from the newest checkpoint"
        )
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__


def leave(error: BaseException, status: int = 1) -> int:
    """The exit status of a command that ends with this error.

    Does not return in a run of many processes where this one alone has met it: then all end here.
    """
    if not jax.distributed.is_initialized() or isinstance(error, AgreedError):
        return status
    message = describe(error)
    if not _ending.acquire(blocking=False):
        threading.Event().wait()
    _fall_silent()
    # Whoever waits at the normal end of a program waits for all: none of that here.
    with contextlib.suppress(Exception):
        state = distributed.global_state
        state.client.key_value_set(_FAILED, f"process {state.process_id}: {message}")
        _wait_until_seen(state.client, state.num_processes - 1, _WAIT_FOR_OTHERS)
        _part()
    os._exit(status)


def _fall_silent() -> None:
    """All is said: what other threads now meet, as connections end, only follows from it."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _part() -> None:
    """What comes before the end: process 0, which holds the service, is the last to go."""
    state = distributed.global_state
    state.client.key_value_set(f"{_SEEN}/{state.process_id}", "")
    if state.process_id == 0:
        _wait_until_seen(state.client, state.num_processes, 2 * _WAIT_FOR_OTHERS)
        time.sleep(_LOOK_EVERY)


def _wait_until_seen(client: Any, count: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and len(client.key_value_dir_get(_SEEN)) < count:
        time.sleep(_LOOK_EVERY / 4)


def check_count() -> None:
    """Refuses a process that counts others than process 0 does. Needs no device."""
    state = distributed.global_state
    if state.process_id == 0:
        state.client.key_value_set(_COUNT, str(state.num_processes))
    count = int(state.client.blocking_key_value_get(_COUNT, 60_000))
    if count != state.num_processes:
        raise UserError(
            f"process {state.process_id} was started as one of {state.num_processes}, process 0 as "
            f"one of {count}; start all of them alike"
        )


def listen() -> None:
    """Starts the thread that ends this process when another one says that it has failed."""
    client = distributed.global_state.client
    done = threading.Event()

    def look() -> None:
        while not done.wait(_LOOK_EVERY):
            try:
                message = client.key_value_try_get(_FAILED)
            except Exception:  # nothing there; or the service is gone, which jax sees
                continue
            if not _ending.acquire(blocking=False):
                return
            print(f"error: {message}", file=sys.stderr)
            _fall_silent()
            with contextlib.suppress(Exception):
                _part()
            os._exit(1)

    def stop() -> None:
        done.set()
        thread.join()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    atexit.register(stop)  # before jax, which was registered sooner, shuts its client down
