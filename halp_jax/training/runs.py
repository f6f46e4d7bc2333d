"""The runs of a sweep: what each has done, and how their commands are run one after the other.

A run's record, sweep.json in its workdir, lists the commands that ended well, as they were typed:
one that would be typed differently now is to be done again, and so are those after it.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from halp_jax.datasets.atomic_write import atomic_write
from halp_jax.errors import UserError
from halp_jax.training.signals import handled

RECORD, LOG = "sweep.json", "sweep.log"
STOPPED = (129, 130, 143)  # exit statuses of a command that was asked to stop
PROCESS = ("JAX_PROCESS_ID", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_ID")
PROCESSES = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


class Run(NamedTuple):
    """One run of the sweep: `commands` are ["train", option, ...], then those of its evaluations."""

    number: int
    workdir: Path
    commands: list[list[str]]


def read_record(run: Run) -> dict[str, Any]:
    """{"done": commands, "failed": exit status or None} of a run; empty at first."""
    try:
        record = json.loads((run.workdir / RECORD).read_text(encoding="utf-8"))
        return {"done": list(record["done"]), "failed": record["failed"]}
    except (OSError, ValueError, LookupError, TypeError):  # a damaged one costs looking again
        return {"done": [], "failed": None}


def find_open(run: Run) -> list[list[str]]:
    """The run's commands from the first on that was not done, or not in this way."""
    done = read_record(run)["done"]
    same = [a == b for a, b in zip(done, run.commands, strict=False)] + [False]
    return run.commands[same.index(False) :]


def describe(run: Run) -> str:
    """How far a run is."""
    left, failed = len(find_open(run)), read_record(run)["failed"]
    if not left:
        return "done"
    if failed is not None:
        return f"failed, exit status {failed}"
    if left < len(run.commands):
        return f"trained, {left} of {len(run.commands) - 1} evaluations to go"
    return "begun" if (run.workdir / "checkpoints").is_dir() else "to do"


def find_place(environment: Mapping[str, str]) -> tuple[int, bool]:
    """(number of this process, whether the runs are of several): see training.cluster."""
    number = next((int(environment[name]) for name in PROCESS if environment.get(name)), 0)
    several = any(int(environment.get(name) or 1) > 1 for name in PROCESSES)
    return number, several or "," in environment.get("TPU_WORKER_HOSTNAMES", "")


class Caller(contextlib.ExitStack):
    """Context that runs commands, one at a time, and passes SIGTERM and Ctrl-C on to the one that runs."""

    def __init__(self, number: int, show: bool) -> None:
        super().__init__()
        self.stopped = 0  # exit status that tells the signal that came
        self._number, self._show = number, show
        self._child: subprocess.Popen | None = None

    def __enter__(self) -> "Caller":
        self.enter_context(handled(self._stop))
        return self

    def _stop(self, signum: int, frame: Any) -> None:
        self.stopped = 128 + signum
        if self._child is not None:
            self._child.terminate()

    def run(self, run: Run, command: Sequence[str]) -> int:
        """-> the command's exit status, 128 + the signal where one has killed it."""
        typed = [sys.executable, "-m", f"halp_jax.{command[0]}", *command[1:]]
        name = f"sweep.{self._number}.log" if self._number else LOG
        line = f"$ python -m halp_jax.{shlex.join(command)}"
        print(line if self._show else f"{line}  >> {run.workdir / name}", flush=True)
        log = Path(os.devnull) if self._show else run.workdir / name
        try:
            run.workdir.mkdir(parents=True, exist_ok=True)
            with open(log, "a") as stream:
                stream.write(f"{line}\n")
        except OSError as error:
            raise UserError(
                f"cannot write {run.workdir} ({error.strerror}); make room, or choose another --workdir"
            ) from error
        environment = dict(os.environ)
        if "," in environment.get("TPU_WORKER_HOSTNAMES", "") and command[0] == "evaluate":
            environment["JAX_PLATFORMS"] = "cpu"  # a slice's TPUs open to all its hosts or to none
        with open(log, "a") as stream:
            # A session of its own: Ctrl-C comes once, from here.
            self._child = subprocess.Popen(
                typed, env=environment, start_new_session=True,
                stdout=None if self._show else stream, stderr=None if self._show else stream,
            )  # fmt: skip
            if self.stopped:
                self._child.terminate()
            status = self._child.wait()
        return status if status >= 0 else 128 - status


def run_all(
    runs: Sequence[Run], call: Caller, number: int, several: bool
) -> Iterator[tuple[Run, int]]:
    """Does what is to be done; yields every run that fails, with its status, until stopped.

    Evaluation is of one process. Where there are several all trainings come before it, lest the
    others wait.
    """
    failed = set()
    rounds = [1, len(runs[0].commands)] if several else [len(runs[0].commands)]
    for last in rounds[:1] if number else rounds:
        for run in runs:
            for command in find_open(run):
                i = run.commands.index(command)
                if i >= last or run.number in failed:
                    break
                status = call.run(run, command)
                stopped = call.stopped or status in STOPPED
                done = run.commands[: i if status else i + 1]
                if not number:
                    text = json.dumps({"done": done, "failed": None if stopped else status or None})
                    with atomic_write(run.workdir / RECORD, "free some space") as stream:
                        stream.write(text.encode())
                if status:
                    failed.add(run.number)
                    yield run, status
                if stopped:
                    return
