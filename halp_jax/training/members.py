"""The members of a sweep: what each has done, and how their commands are run one after the other.

A member's record, sweep.json in its workdir, lists the commands that ended well, as they were typed:
one that would be typed differently now is to be done again, and so are those after it.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from halp_jax.datasets.whole_file import open_whole

RECORD, LOG = "sweep.json", "sweep.log"
STOPPED = (130, 143)  # exit statuses of a command that was asked to stop
PROCESS = ("JAX_PROCESS_ID", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_ID")
PROCESSES = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


class Member(NamedTuple):
    """One run of the sweep: `commands` are ["train", option, ...], then those of its evaluations."""

    number: int
    workdir: Path
    commands: list[list[str]]


def read_record(member: Member) -> dict[str, Any]:
    """{"done": commands, "failed": exit status or None} of a member; empty at first."""
    try:
        record = json.loads((member.workdir / RECORD).read_text(encoding="utf-8"))
        return {"done": list(record["done"]), "failed": record["failed"]}
    except (OSError, ValueError, LookupError, TypeError):  # a damaged one costs looking again
        return {"done": [], "failed": None}


def find_open(member: Member) -> list[list[str]]:
    """The member's commands from the first on that was not done, or not in this way."""
    done = read_record(member)["done"]
    same = [a == b for a, b in zip(done, member.commands, strict=False)] + [False]
    return member.commands[same.index(False) :]


def describe(member: Member) -> str:
    """How far a member is."""
    left, failed = len(find_open(member)), read_record(member)["failed"]
    if not left:
        return "done"
    if failed is not None:
        return f"failed, exit status {failed}"
    if left < len(member.commands):
        return f"trained, {left} of {len(member.commands) - 1} evaluations to go"
    return "begun" if (member.workdir / "checkpoints").is_dir() else "to do"


def find_place(environment: Mapping[str, str]) -> tuple[int, bool]:
    """(number of this process, whether the runs are of several): see training.cluster."""
    number = next((int(environment[name]) for name in PROCESS if environment.get(name)), 0)
    several = any(int(environment.get(name) or 1) > 1 for name in PROCESSES)
    return number, several or "," in environment.get("TPU_WORKER_HOSTNAMES", "")


class Caller:
    """Context that runs commands, one at a time, and passes SIGTERM and Ctrl-C on to the one that runs."""

    def __init__(self, number: int, show: bool) -> None:
        self.stopped = 0  # exit status that tells the signal that came
        self._number, self._show = number, show
        self._child: subprocess.Popen | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Caller":
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._previous[signum] = signal.signal(signum, self._stop)
        return self

    def __exit__(self, *error: Any) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _stop(self, signum: int, frame: Any) -> None:
        self.stopped = 128 + signum
        if self._child is not None:
            self._child.terminate()

    def run(self, member: Member, command: Sequence[str]) -> int:
        """-> the command's exit status, 128 + the signal where one has killed it."""
        typed = [sys.executable, "-m", f"halp_jax.{command[0]}", *command[1:]]
        name = f"sweep.{self._number}.log" if self._number else LOG
        line = f"$ python -m halp_jax.{shlex.join(command)}"
        print(line if self._show else f"{line}  >> {member.workdir / name}", flush=True)
        member.workdir.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        if "," in environment.get("TPU_WORKER_HOSTNAMES", "") and command[0] == "evaluate":
            environment["JAX_PLATFORMS"] = "cpu"  # a slice's TPUs open to all its hosts or to none
        with open(os.devnull if self._show else member.workdir / name, "a") as log:
            log.write(f"{line}\n")
            log.flush()
            # A session of its own: Ctrl-C comes once, from here.
            self._child = subprocess.Popen(
                typed, env=environment, start_new_session=True,
                stdout=None if self._show else log, stderr=None if self._show else log,
            )  # fmt: skip
            if self.stopped:
                self._child.terminate()
            status = self._child.wait()
        return status if status >= 0 else 128 - status


def run_all(
    members: Sequence[Member], call: Caller, number: int, several: bool
) -> Iterator[tuple[Member, int]]:
    """Does what is to be done; yields every member that fails, with its status, until stopped.

    Evaluation is of one process. Where there are several all trainings come before it, lest the
    others wait.
    """
    failed = set()
    rounds = [1, len(members[0].commands)] if several else [len(members[0].commands)]
    for last in rounds[:1] if number else rounds:
        for member in members:
            for command in find_open(member):
                i = member.commands.index(command)
                if i >= last or member.number in failed:
                    break
                status = call.run(member, command)
                stopped = call.stopped or status in STOPPED
                done = member.commands[: i if status else i + 1]
                if not number:
                    text = json.dumps({"done": done, "failed": None if stopped else status or None})
                    with open_whole(member.workdir / RECORD, "free some space") as stream:
                        stream.write(text.encode())
                if status:
                    failed.add(member.number)
                    yield member, status
                if stopped:
                    return
