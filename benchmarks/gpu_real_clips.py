"""The paper's width and epochs on real clips, on one large GPU in under ten minutes.

    python -m halp_jax.export --data=data/pku2p --out=packed/pku2p.npz --half
    python benchmarks/gpu_real_clips.py --data=packed --out=gpu.jsonl --minutes=9

For each task and seed: raw coordinates and a random encoder; MoCo at the released settings
(configs/released_small.py: width 1024, 3 layers, 64 frames, 451 epochs); from its state at epoch 200
HaLP to the same epoch; 1-NN and linear probe of all four. No TensorFlow is needed: the clips come from
the packed file. All --config.x=y options are passed on.

Before a run it trains a few epochs of it to measure the rate, and leaves out what does not fit into
--minutes, with a line that says so; a run that is slower than it promised is stopped in time for its
evaluation. Each line of --out is one event as it happens: machine, train, result, skipped. Started
again with the same --workdir it does what is missing.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

BEGIN = time.monotonic()  # before jax is imported: that time counts, too
sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout will do, it need not be installed

import jax  # noqa: E402

from benchmarks import real_clips  # noqa: E402
from benchmarks.real_clips import PROTOCOLS, Job, evaluate_job, read_result, train_job  # noqa: E402
from halp_jax import datasets  # noqa: E402
from halp_jax.errors import UserError  # noqa: E402
from halp_jax.options import parse_config  # noqa: E402

CONFIG = str(Path(__file__).parents[1] / "configs" / "released_small.py")
ROWS = {"raw": "raw coordinates", "random": "random encoder", "moco": "MoCo, released settings"}
ROWS |= {"halp": "HaLP from epoch 200 of it"}
MEASURED_EPOCHS = 5
UNKNOWN_SECONDS = 20.0  # of an evaluation before one was measured
SPARE_SECONDS = 5.0  # between the end of the plan and --minutes
MARGIN = 1.1  # what is estimated may take a tenth longer


class Member:
    """One task, one seed: its commands, and what they need to know of each other."""

    def __init__(self, task: str, seed: int, args: argparse.Namespace):
        name, split = task.split(":")
        self.task, self.seed, self.base = task, seed, Path(args.workdir) / name / split
        file = Path(args.data) / f"{name}.npz"
        self.options = [f"--config.data.dir={file}", f"--config.data.split={split}"]
        self.options += [f"--config.seed={seed}", *args.override]
        config = parse_config([f"--config={CONFIG}:halp", *self.options])
        clips = len(datasets.open_dataset(file).indices(split, "train"))
        self.batch_size, self.epochs = config.train.batch_size, config.train.epochs
        self.start_epoch = config.halp.start_epoch
        self.steps_per_epoch = clips // self.batch_size
        self.raw = seed == args.seeds[0]

    def untrained(self) -> list[Job]:
        encoders = {"raw": "raw"} if self.raw else {}
        encoders[f"random_{self.seed}"] = "random"
        return [
            evaluate_job(self.base / folder, protocol, encoder, f"{CONFIG}:moco", self.options)
            for folder, encoder in encoders.items()
            for protocol in PROTOCOLS
        ]

    def training(self, row: str) -> tuple[Job, int]:
        """The run of a row, and the epoch at which it begins."""
        moco, begin, start = self.base / f"moco_{self.seed}", 0, ""
        if row == "halp":
            begin = self.start_epoch
            start = moco / "checkpoints" / str(begin * self.steps_per_epoch)
        workdir = self.base / f"{row}_{self.seed}"
        return train_job(f"{CONFIG}:{row}", workdir, self.options, start), begin


class Study:
    """What was measured so far, and what is left of the time."""

    def __init__(self, args: argparse.Namespace):
        self.end = BEGIN + 60 * args.minutes - SPARE_SECONDS
        self.out = Path(args.out)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.evaluation: dict[str, float] = {}  # protocol -> longest seconds
        self.step: dict[str, float] = {}  # row -> seconds a step
        self.start: dict[str, float] = {}  # row -> seconds of a run besides its steps

    def left(self) -> float:
        return self.end - time.monotonic()

    def write(self, event: str, **fields: Any) -> None:
        line = {"event": event, "at_s": round(time.monotonic() - BEGIN, 1), **fields}
        with open(self.out, "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def fits(self, needs: float, **fields: Any) -> bool:
        if needs <= self.left():
            return True
        times = {"needs_s": round(needs, 1), "left_s": round(self.left(), 1)}
        self.write("skipped", **fields, **times)
        return False

    def evaluation_seconds(self, protocols: tuple[str, ...] = PROTOCOLS) -> float:
        return MARGIN * sum(self.evaluation.get(p, UNKNOWN_SECONDS) for p in protocols)

    def evaluate(self, job: Job) -> None:
        protocol = job.result.name.split(".")[0].split("_")[0]
        if not job.result.exists():
            where = {"folder": str(job.workdir), "protocol": protocol}
            if not self.fits(self.evaluation_seconds((protocol,)), **where):
                return
            begin = time.monotonic()
            if status := real_clips.call(job):
                self.write("failed", **where, status=status)
                return
            seconds = time.monotonic() - begin
            self.evaluation[protocol] = max(seconds, self.evaluation.get(protocol, 0))
        self.write("result", **read_result(job.result))

    def train(self, member: Member, row: str) -> bool:
        """Trains as far as the time goes -> whether there is an encoder to evaluate."""
        job, begin = member.training(row)
        if job.result.exists():
            return True
        who = {"task": member.task, "row": row, "seed": member.seed}
        spe, done = member.steps_per_epoch, last_step(job.workdir) or begin * member.steps_per_epoch
        if begin and not Path(job.arguments[-1].split("=", 1)[1]).is_dir():
            self.write("skipped", **who, reason=f"MoCo has no checkpoint of epoch {begin}")
            return False
        # Even the measurement must leave time for an evaluation; a compilation is about as long.
        if row not in self.step:
            if not self.fits(2 * self.evaluation_seconds(), **who):
                return False
            measured = min(done + MEASURED_EPOCHS * spe, member.epochs * spe)
            begun = time.monotonic()
            less = f"--config.train.epochs={-(-measured // spe)}"
            if status := self.call_in_time(job, less, "--config.knn.every_epochs=0"):
                self.write("failed", **who, status=status)
                return False
            self.step[row] = seconds_per_step(job.workdir, member.batch_size)
            steps, done = last_step(job.workdir) - done, last_step(job.workdir)
            self.start[row] = max(0.0, time.monotonic() - begun - steps * self.step[row])
        missing = member.epochs * spe - done
        needs = MARGIN * (missing * self.step[row] + self.start[row]) + self.evaluation_seconds()
        if not self.fits(needs, **who, ms_per_step=round(1e3 * self.step[row], 2)):
            return False
        begun = time.monotonic()
        status = self.call_in_time(job)
        stopped = status in (130, 143)
        if status and not stopped:
            self.write("failed", **who, status=status)
            return False
        seconds, end = time.monotonic() - begun, last_step(job.workdir)
        self.step[row] = seconds_per_step(job.workdir, member.batch_size)
        self.write(
            "train", **who, from_epoch=begin, epoch=end / spe, step=end, stopped=stopped,
            steps_per_epoch=spe, ms_per_step=round(1e3 * self.step[row], 2),
            estimated_s=round(needs - self.evaluation_seconds(), 1), seconds=round(seconds, 1),
            **figures(job.workdir),
        )  # fmt: skip
        return True

    def call_in_time(self, job: Job, *more: str) -> int:
        """Types the command; stops it as SIGTERM does, state saved, before the time is over."""
        seconds = max(0.0, self.left() - self.evaluation_seconds())
        alarm = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
        alarm.daemon = True
        alarm.start()
        try:
            return real_clips.call(job, *more)
        except KeyboardInterrupt:  # SIGTERM before the run watched for it, or after
            return 130
        finally:
            alarm.cancel()


def records(workdir: Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def last_step(workdir: Path) -> int:
    return max((record["step"] for record in records(workdir)), default=0)


def seconds_per_step(workdir: Path, batch_size: int) -> float:
    """Of the newest interval that has a rate; 0 if none has."""
    rates = [r["clips_per_s"] for r in records(workdir) if r.get("clips_per_s")]
    return batch_size / rates[-1] if rates else 0.0


def figures(workdir: Path) -> dict[str, Any]:
    """What training itself said at its end, and its 1-NN along the way."""
    found = records(workdir)
    names = ("loss", "contrast_accuracy", "kept", "model_tflops_per_s", "input_wait")
    along = {record["step"]: record["knn_top1"] for record in found if "knn_top1" in record}
    return {name: found[-1][name] for name in names if name in found[-1]} | {"knn_along": along}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", default="packed", help="folder of the packed files, NAME.npz")
    parser.add_argument("--tasks", default="pku2p:xview,pku2p:xsub", help="NAME:SPLIT, ...")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", default="gpu_real_clips.jsonl", help="lines are added to it")
    parser.add_argument(
        "--workdir", default="runs/gpu", help="checkpoints: 0.6 GB each at width 1024"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="the time there is")
    args, args.override = parser.parse_known_args()
    args.seeds = [int(seed) for seed in args.seeds.split(",")]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    study, lines = Study(args), []
    devices = jax.devices()
    study.write(
        "machine", device=devices[0].device_kind, devices=len(devices), jax=jax.__version__,
        python=sys.version.split()[0], precision=jax.config.jax_default_matmul_precision,
        minutes=args.minutes, options=args.override,
    )  # fmt: skip
    try:
        for seed in args.seeds:
            for task in args.tasks.split(","):
                member = Member(task, seed, args)
                jobs = member.untrained()
                for job in jobs:
                    study.evaluate(job)
                for row in ("moco", "halp"):
                    if study.train(member, row):
                        trained = member.base / f"{row}_{seed}"
                        jobs += [evaluate_job(trained, protocol) for protocol in PROTOCOLS]
                        for job in jobs[-len(PROTOCOLS) :]:
                            study.evaluate(job)
                lines += [read_result(job.result) for job in jobs if job.result.exists()]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        study.write("stopped")
        return 130
    study.write("end")
    if lines:
        print(real_clips.report(real_clips.by_seed(lines), ROWS, "moco", ("halp",)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
