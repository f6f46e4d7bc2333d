r"""Variants x seeds: trains and evaluates every run of a sweep, and ends in their table.

    python -m halp_jax.sweep --config=configs/small.py --variants=moco,halp --seeds=0,1,2 \
        --workdir=runs/sweep --evaluate=knn,linear --stream=concat \
        --config.data.dir=data/pku2p --config.data.split=xperf
    python -m halp_jax.sweep ... --list          # the runs, their numbers and how far they are
    python -m halp_jax.sweep ... --member=4      # that one alone; launch/slurm.sbatch: each by a job

`train` and `evaluate` work in WORKDIR/VARIANT_SEED and append their output to sweep.log there (--show:
to the terminal). The same command resumes; what is done is skipped, unless its command line has changed.
Runs that failed are named at the end. Exit status: 0 when all is done, 1 when a run has failed, 143 or
130 after SIGTERM or Ctrl-C; with --member, that of its command.
"""

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from halp_jax import table, train
from halp_jax.datasets.atomic_write import atomic_write
from halp_jax.errors import UserError
from halp_jax.evaluation import streams
from halp_jax.evaluation.protocols import NAMES
from halp_jax.options import make_parser, run_command
from halp_jax.training.shutdown import handled

RECORD, LOG = "sweep.json", "sweep.log"
STOPPED = (129, 130, 143)  # exit statuses of a command that was asked to stop
PROCESS = ("JAX_PROCESS_ID", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_ID")
PROCESSES = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
CLUSTER = (*PROCESS, *PROCESSES, "JAX_COORDINATOR_ADDRESS", "TPU_WORKER_HOSTNAMES")


class Run(NamedTuple):
    """One run of the sweep: `commands` are ["train", option, ...], then those of its evaluations."""

    number: int
    workdir: Path
    commands: list[list[str]]


def parse_args(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command's options, and those of `train` that all runs share."""
    more = "--config.field=value changes a setting of all runs"
    parser = make_parser("sweep", __doc__, epilog=more)
    parser.add_argument("--config", required=True, metavar="FILE", help="the variants' config file")
    parser.add_argument("--variants", default="", help="what follows the colon; default: nothing")
    parser.add_argument("--seeds", default="0", help="as in 0,1,2")
    parser.add_argument("--workdir", required=True, help="folder of the runs' folders")
    parser.add_argument("--evaluate", default="knn,linear", help="protocols; empty: only train")
    parser.add_argument("--stream", default="", help="as `evaluate` takes it")
    parser.add_argument("--run", "--member", type=int, dest="run", help="run this one alone")
    parser.add_argument("--show", action="store_true", help="no logs: all goes to the terminal")
    parser.add_argument("--list", action="store_true", help="only show the runs")
    return parser.parse_known_args(argv)


def plan(args: argparse.Namespace, shared: Sequence[str]) -> list[Run]:
    """All runs, by variant, then by seed. Raises UserError for what cannot be run."""
    variants, seeds = _split(args, "variants") or [""], _split(args, "seeds")
    protocols = _split(args, "evaluate")
    if not seeds or not all(seed.isdecimal() for seed in seeds):
        raise UserError(f"--seeds={args.seeds}; give whole numbers, as in --seeds=0,1,2")
    # transfer wants a data set of its own, which a sweep has not.
    known = [name for name in NAMES if name != "transfer"]
    if unknown := [name for name in protocols if name not in known]:
        known = ", ".join(known)
        raise UserError(f"--evaluate: no protocol {unknown[0]!r}; there are {known}")
    if any(option.split("=")[0] == "--config.seed" for option in shared):
        raise UserError("--config.seed is set for each run; give --seeds=0,1,2")
    file, _, own = args.config.partition(":")
    runs, stem = [], own or Path(file).stem
    for variant in variants:
        for seed in seeds:
            workdir = Path(args.workdir) / f"{variant or stem}_{seed}"
            config = f"{args.config}:{variant}" if variant else args.config
            options = [
                f"--config={config}",
                f"--workdir={workdir}",
                f"--config.seed={seed}",
                *shared,
            ]
            # What does not fit is said now, and not by every run after its training.
            _, settings = train.parse_args(options)
            fusions = streams.parse_fusions(args.stream, settings.streams)
            for protocol in protocols:
                streams.check_fusions(protocol, fusions)
            commands = [["train", *options]]
            for protocol in protocols:
                command = ["evaluate", f"--workdir={workdir}", f"--protocol={protocol}"]
                commands.append(command + [f"--stream={args.stream}"] * bool(args.stream))
            runs.append(Run(len(runs), workdir, commands))
    return runs


def _split(args: argparse.Namespace, name: str) -> list[str]:
    values = [value for value in getattr(args, name).split(",") if value]
    if len(set(values)) < len(values):
        raise UserError(f"--{name}={getattr(args, name)} has one twice; leave it out")
    return values


def read_record(run: Run) -> dict[str, Any]:
    """{"done": commands, "failed": exit status or None}, of the file RECORD in the run's workdir.

    `done` are the commands that ended well, as they were typed: one that would be typed differently now
    is to be done again, and so are those after it.
    """
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
        if command[0] == "evaluate":  # by this process alone: it must not wait for the others
            if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
                # A slice's TPUs open to all its hosts or to none.
                environment["JAX_PLATFORMS"] = "cpu"
            for variable in CLUSTER:
                environment.pop(variable, None)
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


def show(
    runs: Sequence[Run], failed: Sequence[tuple[Run, int]], with_table: bool, logged: bool = True
) -> int:
    """Prints how far the runs are, their table, and who has failed -> the table's exit status."""
    for run in runs:
        state = describe(run)
        print(f"{run.number:3d}  {run.workdir.name}: {state}", flush=True)
    results = [str(m.workdir) for m in runs if any((m.workdir / "eval").glob("*.json"))]
    status = table.main(results) if results and with_table else 0
    for run, code in failed:
        see = f"see {run.workdir / LOG}; " if logged else ""
        print(
            f"error: {run.workdir.name} failed with exit status {code}, {see}"
            f"--member={run.number} runs it alone",
            file=sys.stderr,
        )
    return status


def sweep(argv: Sequence[str]) -> int:
    """Starts what is to be done -> the exit status."""
    args, shared = parse_args(argv)
    runs = chosen = plan(args, shared)
    if args.run is not None:
        if not 0 <= args.run < len(runs):
            raise UserError(f"--member={args.run}; there are 0 to {len(runs) - 1}")
        chosen = [runs[args.run]]
    if args.list:
        return show(runs, [], with_table=False)
    number, several = find_place(os.environ)
    with Caller(number, args.show) as call:
        failed = list(run_all(chosen, call, number, several))
    if stopped := call.stopped or next((s for _, s in failed if s in STOPPED), 0):
        print("sweep: stopped; the same command resumes", file=sys.stderr)
        return stopped
    status = show(runs, failed, True, logged=not args.show) if number == 0 else 0
    if failed:
        return failed[0][1] if args.run is not None else 1
    return status


def main(argv: Sequence[str] | None = None) -> int:
    return run_command("sweep", sweep, argv, stopped="the same command resumes")


if __name__ == "__main__":
    sys.exit(main())
