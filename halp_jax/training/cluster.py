"""One process or many: how the processes of a run find one another, agree, and part.

`jax.distributed` is the engine: one process a host (GPU and TPU machines) or several on one, each
with devices of its own. What is here decides whether there is a cluster, before anything touches a
device, and lets processes agree on what only one of them can know. With one process all of it does
nothing.
"""

import contextlib
import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Shaped
from ml_collections import ConfigDict
from orbax.checkpoint import multihost

from halp_jax.errors import UserError
from halp_jax.training.shutdown import AgreedError, handled, listen

VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}
UNSET = {"coordinator": "", "num_processes": 0, "process_id": -1}
_MESSAGE_BYTES = 1024
_DONE, _LOOK_EVERY = "halp_jax/done", 0.25  # a key of the coordination service; seconds


def find_cluster(
    cluster: Mapping[str, Any] | ConfigDict, environment: Mapping[str, str]
) -> dict[str, Any] | None:
    """What to call `jax.distributed.initialize` with; None for a process on its own.

    In this order: the fields of `config.cluster`, each else its variable; what JAX finds in Slurm (a
    step of several tasks), Open MPI and on the hosts of a TPU slice; everything else that JAX knows
    with `coordinator="auto"`.

    Raises:
        UserError: some of coordinator, num_processes and process_id are given and others are not,
            or they do not fit one another.
    """
    if cluster.get("coordinator") == "auto":
        return {}
    given: dict[str, Any] = {name: cluster.get(name, UNSET[name]) for name in VARIABLES}
    for name, variable in VARIABLES.items():
        if given[name] == UNSET[name]:
            given[name] = environment.get(variable) or None
    if any(value is not None for value in given.values()):
        return _check_given(given)
    if int(environment.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        return {"cluster_detection_method": "slurm"}
    if int(environment.get("OMPI_COMM_WORLD_SIZE") or 1) > 1:
        return {"cluster_detection_method": "ompi"}
    if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return {}
    return None


def _check_given(given: Mapping[str, Any]) -> dict[str, Any]:
    for name, variable in VARIABLES.items():
        if given[name] is None:
            raise UserError(
                f"a cluster without {name}: set --config.cluster.{name} or {variable}, "
                "or leave out all three for a process on its own"
            )
    try:
        count, number = int(given["num_processes"]), int(given["process_id"])
    except ValueError:
        raise UserError(
            f"cluster: {given['num_processes']!r} processes, process {given['process_id']!r}; "
            "give whole numbers"
        ) from None
    host, _, port = given["coordinator"].rpartition(":")
    if not 0 <= number < count or not host or not port.isdigit():
        raise UserError(
            f"cluster: process {number} of {count} at {given['coordinator']!r}; processes count "
            "from 0, and a coordinator is HOST:PORT of process 0"
        )
    return {
        "coordinator_address": given["coordinator"], "num_processes": count, "process_id": number,
        "cluster_detection_method": "deactivate",
    }  # fmt: skip


def join(config: ConfigDict) -> None:
    """Joins the cluster of config.cluster, if there is one; before anything touches a device.

    Clears coordinator, num_processes and process_id in `config`: they belong to this process, not to
    the run, whose config is saved.

    Raises:
        UserError: the others did not come within cluster.timeout_seconds, or there is no device of the
            kind that JAX_PLATFORMS asks for.
    """
    cluster = config.get("cluster", ConfigDict())
    options = find_cluster(cluster, os.environ)
    if options is not None and not jax.distributed.is_initialized():
        seconds = cluster.get("timeout_seconds", 300)
        timer = threading.Timer(seconds, _give_up, (seconds,))
        timer.daemon = True
        timer.start()
        try:
            jax.distributed.initialize(
                **options,
                # Longer: when its own time is over, jax aborts the process.
                initialization_timeout=seconds + 60,
                heartbeat_timeout_seconds=cluster.get("heartbeat_seconds", 100),
            )
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"cannot join the cluster ({reason}); check that all processes run, with the same "
                "coordinator and number of processes"
            ) from error
        finally:
            timer.cancel()
        jax.process_index()  # all meet here
        listen()
    try:
        jax.default_backend()
    except (AssertionError, RuntimeError) as error:
        asked = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(
            f"jax finds no device (JAX_PLATFORMS={asked}): unset it to run on the CPU, or install"
            " requirements-gpu.txt or requirements-tpu.txt"
        ) from error
    if cluster:
        cluster.update(UNSET)


def _give_up(seconds: int) -> None:
    """Ends the process with one line: the others have not come."""
    print(
        f"error: the other processes did not come within {seconds} s; check that all run, with "
        "the same coordinator and number of processes, or raise --config.cluster.timeout_seconds",
        file=sys.stderr, flush=True,
    )  # fmt: skip
    os._exit(1)


def is_first() -> bool:
    """Is this the process that writes and speaks for all?"""
    return jax.process_index() == 0


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """What fails in one process with a UserError fails in all, instead of leaving them to wait."""
    error = None
    try:
        yield
    except UserError as found:
        error = found
    if jax.process_count() > 1:
        messages = exchange("" if error is None else str(error))
        for process, message in enumerate(messages):
            if message and error is None:
                error = UserError(f"process {process}: {message}")
        if error is not None:
            raise AgreedError(str(error)) from error
    if error is not None:
        raise error


def exchange(text: str) -> list[str]:
    """The texts of all processes, cut at 1024 bytes each."""
    if jax.process_count() == 1:
        return [text]
    encoded = text.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0")
    rows = np.asarray(multihost_utils.process_allgather(np.frombuffer(encoded, np.uint8)))
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in rows]


def leave_to_first(work: Callable[[], Any]) -> Any:
    """`work()`, done by process 0 alone; the others wait, for days if need be, and get None.

    Where process 0 fails, all end, as `shutdown.leave` has it.
    """
    if jax.process_count() == 1:
        return work()
    client = multihost.get_jax_distributed_client()
    if is_first():
        result = work()
        client.key_value_set(_DONE, "")
        return result
    while True:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # not there yet
            return client.key_value_try_get(_DONE) or None
        time.sleep(_LOOK_EVERY)


def assert_same_on_all(what: str, value: Any) -> None:
    """Raises UserError, in every process, where `repr(value)` is not the same in all of them."""
    digests = exchange(hashlib.sha256(repr(value).encode()).hexdigest())
    others = [i for i, digest in enumerate(digests) if digest != digests[0]]
    if others:
        raise AgreedError(
            f"process {others[0]} has another {what} than process 0; start all of them alike"
        )


def broadcast_scalar(value: int) -> int:
    """The value that process 0 has."""
    return int(broadcast_tree(np.int32(value)))


def local_shard(rows: Shaped[np.ndarray, " rows"]) -> Shaped[np.ndarray, " share"]:
    """This process's part of `rows`: blocks of equal size, filled up with the last row."""
    size = -(-len(rows) // jax.process_count())
    places = jax.process_index() * size + np.arange(size)
    return rows[np.minimum(places, len(rows) - 1)]


def gather(
    part: Shaped[np.ndarray, " share *shape"], count: int
) -> Shaped[np.ndarray, " rows *shape"]:
    """The values of all `count` rows, of which every process has those of its `local_shard`."""
    if jax.process_count() == 1:
        return part
    parts = np.asarray(multihost_utils.process_allgather(part))
    return parts.reshape(-1, *part.shape[1:])[:count].astype(part.dtype)  # jax counts in 32 bits


def broadcast_tree(tree: Any) -> Any:
    """The arrays of process 0, bit by bit, in the place of this process's own of the same shapes."""
    if jax.process_count() == 1:
        return tree
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    data = np.concatenate([np.frombuffer(leaf.tobytes(), np.uint8) for leaf in leaves])
    # As whole numbers: the others add zeros, and a sum of floats would turn -0.0 into 0.0.
    words = np.pad(data, (0, -len(data) % 4)).view(np.uint32)
    data = np.asarray(multihost_utils.broadcast_one_to_all(words)).view(np.uint8)
    ends = np.cumsum([leaf.nbytes for leaf in leaves])
    return structure.unflatten(
        np.frombuffer(data[end - leaf.nbytes : end].tobytes(), leaf.dtype).reshape(leaf.shape)
        for end, leaf in zip(ends, leaves, strict=True)
    )


def should_stop(step: int) -> bool:
    """Has one of the processes been asked to stop? True at the same step in all of them.

    To be asked once a step. JAX notes SIGTERM for all, and `interrupts` makes Ctrl-C one.
    """
    return multihost_utils.reached_preemption_sync_point(step)


def interrupts() -> contextlib.AbstractContextManager[None]:
    """A first Ctrl-C asks all processes to stop, as SIGTERM does; a second one acts at once."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signums = (signal.SIGINT,) if usual and jax.process_count() > 1 else ()
    return handled(lambda *_: os.kill(os.getpid(), signal.SIGTERM), signums, once=True)
