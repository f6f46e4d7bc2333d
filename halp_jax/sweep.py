r"""Variants x seeds: trains and evaluates every run of a sweep, and ends in their table.

    python -m halp_jax.sweep --config=configs/small.py --variants=baseline,halp,halp_expected \
        --start=baseline --seeds=0,1,2 --workdir=runs/sweep --evaluate=knn,linear \
        --config.data.dir=data/pku2p --config.data.split=xperf
    python -m halp_jax.sweep ... --list          # the runs, their numbers and how far they are
    python -m halp_jax.sweep ... --run=4         # that one alone; launch/slurm.sbatch: each by a job

A run is what `train` and `evaluate` make in WORKDIR/VARIANT_SEED; what they say is appended to
sweep.log there (--show: to the terminal). The same command resumes: what is done is skipped, unless
it would be typed differently now. A run that fails is named at the end, after the others. With
--start=VARIANT the other variants start from the last checkpoint of that one with the same seed.
Exit status: 0 when all is done, 1 when a run has failed, 143 or 130 after SIGTERM or Ctrl-C; with
--member, that of its command.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from halp_jax import table, train
from halp_jax.errors import UserError
from halp_jax.evaluation.protocols import PROTOCOLS
from halp_jax.options import make_parser, run_command
from halp_jax.training import runs as sweeping
from halp_jax.training.runs import Run


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
    parser.add_argument("--start", default="", help="variant that the others start from")
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
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        known = ", ".join(PROTOCOLS)
        raise UserError(f"--evaluate: no protocol {unknown[0]!r}; there are {known}")
    if args.start and args.start not in variants:
        raise UserError(f"--start={args.start} is none of --variants={args.variants}; add it there")
    if any(option.split("=")[0] == "--config.seed" for option in shared):
        raise UserError("--config.seed is set for each run; give --seeds=0,1,2")
    runs, stem = [], Path(args.config.split(":")[0]).stem
    # Those that others start from come first, so that all can be done in order.
    for variant in sorted(variants, key=lambda name: name != args.start):
        for seed in seeds:
            workdir = Path(args.workdir) / f"{variant or stem}_{seed}"
            config = f"{args.config}:{variant}" if variant else args.config
            options = [
                f"--config={config}",
                f"--workdir={workdir}",
                f"--config.seed={seed}",
                *shared,
            ]
            if args.start and variant != args.start:
                start = Path(args.workdir) / f"{args.start}_{seed}"
                options.append(f"--config.init_from={start}")
            train.parse_args(options)  # what does not fit is said now, and not by every run
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


def show(runs: Sequence[Run], failed: Sequence[tuple[Run, int]], with_table: bool) -> int:
    """Prints how far the runs are, their table, and who has failed -> the table's exit status."""
    for run in runs:
        state = sweeping.describe(run)
        print(f"{run.number:3d}  {run.workdir.name}: {state}", flush=True)
    results = [str(m.workdir) for m in runs if any((m.workdir / "eval").glob("*.json"))]
    status = table.main(results) if results and with_table else 0
    for run, code in failed:
        log = run.workdir / sweeping.LOG
        print(
            f"error: {run.workdir.name} failed with exit status {code}, see {log}; "
            f"--run={run.number} runs it alone",
            file=sys.stderr,
        )
    return status


def sweep(argv: Sequence[str]) -> int:
    """Starts what is to be done -> the exit status."""
    args, shared = parse_args(argv)
    runs = chosen = plan(args, shared)
    if args.run is not None:
        if not 0 <= args.run < len(runs):
            raise UserError(f"--run={args.run}; there are 0 to {len(runs) - 1}")
        chosen = [runs[args.run]]
    if args.list:
        return show(runs, [], with_table=False)
    number, several = sweeping.find_place(os.environ)
    with sweeping.Caller(number, args.show) as call:
        failed = list(sweeping.run_all(chosen, call, number, several))
    if stopped := call.stopped or next((s for _, s in failed if s in sweeping.STOPPED), 0):
        print("sweep: stopped; the same command resumes", file=sys.stderr)
        return stopped
    status = show(runs, failed, with_table=True) if number == 0 else 0
    if failed:
        return failed[0][1] if args.run is not None else 1
    return status


def main(argv: Sequence[str] | None = None) -> int:
    return run_command("sweep", sweep, argv, stopped="the same command resumes")


if __name__ == "__main__":
    sys.exit(main())
