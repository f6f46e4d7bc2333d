"""Kills a training run again and again; what comes out in the end is the unbroken run, bit by bit.

    python benchmarks/reliability.py --kills=100
    python benchmarks/reliability.py --kills=20 --processes=2

A small HaLP run (synthetic clips, width 16) saves every epoch and writes a line every step. It is
killed (SIGKILL) while it starts, between two steps and in the middle of a save (as orbax' unfinished
folder appears), and the same command is typed again, until it is done. Then state, metrics and files
are held against a run that was left in peace. Of two processes one or both are killed; the other has
to end by itself.
"""

import collections
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _timing
import jax
import numpy as np

from halp_jax.training import checkpoint, report

ROOT = Path(__file__).parents[1]
QUICK = {"kills": 5, "epochs": 60, "halp": 0}
TIMING = {"clips_per_s", "model_tflops_per_s", "input_wait"}
KINDS = ("save", "step", "save", "start", "step")  # in turn
LIMIT = 600  # seconds without any progress: it hangs


class Run:
    """The command on so many processes, started anew as often as it takes."""

    def __init__(self, workdir: Path, data: Path, args: Any):
        self.workdir, self.processes = workdir, args.processes
        config = {
            "data.dir": data, "train.epochs": args.epochs, "train.log_every": 1,
            "train.batch_size": 8, "encoder.width": 16, "encoder.num_layers": 1,
            "encoder.dim": 16, "views.num_frames": 8, "views.min_frames": 8,
            "moco.queue_size": 64, "halp.mu": float(args.halp), "halp.start_epoch": 4,
            "halp.queue_entries": 64, "halp.num_prototypes": 5, "halp.num_positives": 8,
            "checkpoint.every_epochs": 1, "knn.every_epochs": 8, "knn.batch_size": 32,
        }  # fmt: skip
        options = [f"--config.{name}={value}" for name, value in config.items()]
        self.command = [
            sys.executable, "-m", "halp_jax.train", f"--config={ROOT / 'configs' / 'demo.py'}",
            f"--workdir={workdir}", *options,
        ]  # fmt: skip
        self.running: list[subprocess.Popen] = []
        self.log = workdir.with_suffix(".log")

    def start(self, **environment: str) -> None:
        environment = make_environment(2 // self.processes) | environment
        members: list[dict[str, str]] = [{}]
        if self.processes > 1:
            members = [{"JAX_PROCESS_ID": str(number)} for number in range(self.processes)]
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            environment |= {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": str(self.processes),
            }
        with open(self.log, "a") as log:
            self.running = [
                subprocess.Popen(
                    self.command, cwd=ROOT, env=environment | who, stdout=log, stderr=log
                )
                for who in members
            ]  # fmt: skip

    def kill(self, victims: list[subprocess.Popen]) -> float:
        """-> seconds until all have ended, those that were left to it by themselves."""
        for process in victims:
            process.kill()
        begin = time.monotonic()
        for process in self.running:
            process.wait(LIMIT)
        return time.monotonic() - begin

    def finish(self) -> None:
        for process in self.running:
            if process.wait(LIMIT):
                tail = "\n".join(self.log.read_text().splitlines()[-20:])
                raise SystemExit(f"the run has ended with status {process.returncode}:\n{tail}")

    def is_over(self) -> bool:
        return all(process.poll() is not None for process in self.running)

    def is_saving(self) -> bool:
        try:
            return any("tmp" in entry.name for entry in os.scandir(self.workdir / "checkpoints"))
        except FileNotFoundError:
            return False

    def modified(self) -> float:
        path = self.workdir / report.METRICS
        return path.stat().st_mtime if path.exists() else 0.0

    def last_step(self) -> int:
        records = report.read_metrics(self.workdir)
        return records[-1]["step"] if records else -1


def make_environment(devices: int) -> dict[str, str]:
    """Of a process with so many CPU devices, that compiles quickly."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
    return os.environ | {
        "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
    }  # fmt: skip


def wait_for(run: Run, happened: Callable[[], bool], pause: float) -> bool:
    """False where the run was over first."""
    deadline = time.monotonic() + LIMIT
    while not happened():
        if run.is_over():
            return False
        if time.monotonic() > deadline:
            raise SystemExit(f"{run.workdir}: nothing happens for {LIMIT} s")
        time.sleep(pause)
    return True


def wait_for_moment(run: Run, kind: str, rng: random.Random, plan: dict[str, float]) -> bool:
    """Returns at the moment to kill at; False where the run was over before it came."""
    begin, first = time.monotonic(), run.last_step()
    if kind == "start":
        moment = begin + rng.uniform(0, plan["startup"])
        begun = run.modified()
        return wait_for(run, lambda: time.monotonic() > moment or run.modified() != begun, 0.01)
    # Lines after a resumed checkpoint are dropped first, so `first` may be ahead of the new run.
    target = first + rng.randint(1, max(2, int(plan["stride"])))
    if not wait_for(run, lambda: run.last_step() >= target, 0.002):
        return False
    if kind == "save" and not wait_for(run, run.is_saving, 0):
        return False
    time.sleep(rng.uniform(0, 0.004 if kind == "save" else 0.05))
    return True


def kill_until_done(run: Run, args: Any, plan: dict[str, float]) -> dict[str, Any]:
    rng = random.Random(args.seed)
    counts: collections.Counter = collections.Counter()
    waits = []
    while counts["kills"] < args.kills:
        left = args.kills - counts["kills"]
        plan["stride"] = 1.4 * (plan["steps"] - max(run.last_step(), 0)) / (left + 1)
        kind = KINDS[counts["kills"] % len(KINDS)]
        run.start()
        if not wait_for_moment(run, kind, rng, plan):
            print(f"done after {counts['kills']} kills, before the one of {kind!r} came")
            break
        victims = run.running
        if len(victims) > 1:
            victims = rng.choice([victims[:1], victims[1:], victims])
        waits.append(run.kill(victims))
        counts["kills"] += 1
        counts[f"kills_at_{kind}"] += 1
        counts["kills_in_a_save"] += run.is_saving()
        counts["half_lines"] += not ends_with_whole_line(run.workdir / report.METRICS)
        print(
            f"kill {counts['kills']}/{args.kills} ({kind}): step {run.last_step()} of "
            f"{plan['steps']:.0f}, {counts['kills_in_a_save']} in a save, "
            f"ended in {waits[-1]:.1f} s",
            flush=True,
        )
    run.start()
    run.finish()
    damaged = len(list((run.workdir / "damaged").glob("*")))
    return {**counts, "set_aside_as_damaged": damaged, "longest_end_s": round(max(waits), 2)}


def ends_with_whole_line(path: Path) -> bool:
    return not path.exists() or path.read_bytes()[-1:] in (b"\n", b"")


def compare(broken: Path, whole: Path) -> dict[str, Any]:
    """What differs between the two runs."""
    states = [checkpoint.restore_state(workdir) for workdir in (broken, whole)]
    leaves = [[np.asarray(x).tobytes() for x in jax.tree.leaves(state)] for state, _ in states]
    lines = [
        [{k: v for k, v in json.loads(line).items() if k not in TIMING} for line in text]
        for text in ((w / report.METRICS).read_text().splitlines() for w in (broken, whole))
    ]
    steps = [line["step"] for line in lines[0]]
    files = [sorted(p.name for p in (w / "checkpoints").iterdir()) for w in (broken, whole)]
    return {
        "lines": len(steps),
        "lines_double": len(steps) - len(set(steps)),
        "lines_missing": len({line["step"] for line in lines[1]} - set(steps)),
        "lines_that_differ": sum(a != b for a, b in zip(*lines, strict=False)),
        "leaves": len(leaves[1]),
        "leaves_that_differ": sum(a != b for a, b in zip(*leaves, strict=True)),
        "same_step": states[0][1] == states[1][1],
        "same_checkpoints": files[0] == files[1],
    }


def is_bitwise(found: dict[str, Any]) -> bool:
    """Does `compare` say that state and lines are the same?"""
    bad = ("lines_double", "lines_missing", "lines_that_differ", "leaves_that_differ")
    return found["same_step"] and not any(found[name] for name in bad)


def prepare(folder: Path, *options: str) -> None:
    command = [sys.executable, "-m", "halp_jax.prepare", "--format=synthetic", "--clips=60"]
    subprocess.run([*command, f"--out={folder}", *options], cwd=ROOT, check=True)


@contextlib.contextmanager
def open_folder(path: str) -> Iterator[Path]:
    if path:
        Path(path).mkdir(parents=True)
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main() -> int:
    parser = _timing.make_parser(__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2))
    parser.add_argument("--epochs", type=int, default=400, help="of 3 steps")
    parser.add_argument("--halp", type=int, default=1, help="weight of HaLP; 0 compiles sooner")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="", help="keep the runs in this new folder")
    args = _timing.parse(parser, QUICK)
    machine = _timing.describe_machine()
    with open_folder(args.out) as folder:
        prepare(folder / "data")
        whole = Run(folder / "whole", folder / "data", args)
        begin = time.monotonic()
        whole.start()
        wait_for(whole, lambda: whole.last_step() >= 1, 0.01)
        plan = {"startup": time.monotonic() - begin}
        whole.finish()
        plan["steps"] = whole.last_step()
        print(
            f"the unbroken run: {time.monotonic() - begin:.0f} s, {plan['startup']:.1f} s of them "
            f"until its first step, {plan['steps']} steps",
            flush=True,
        )
        broken = Run(folder / "broken", folder / "data", args)
        found = kill_until_done(broken, args, plan) | compare(broken.workdir, whole.workdir)
    print()
    _timing.print_table([{"figure": name, "": str(value)} for name, value in found.items()])
    alike = is_bitwise(found) and found["same_checkpoints"]
    found["bitwise_equal"] = alike
    _timing.print_json(
        "reliability", machine=machine, processes=args.processes, epochs=args.epochs, **found
    )
    return 0 if alike else 1


if __name__ == "__main__":
    sys.exit(main())
