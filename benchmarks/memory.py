"""Host memory of a data set of NTU-120's size: preparing it, an epoch on it, its nearest neighbours.

    python benchmarks/memory.py                        (114,000 clips: 6 GB of disk)
    python benchmarks/memory.py --clips=20000 --folder=/scratch
    python benchmarks/memory.py --data=data/ntu120     (a set that is there; nothing is prepared)

The clips are synthetic motion under noise, of 30 to 300 frames; they take the way of every data set
through reader processes, checks, normalisation and record files. Training is configs/default.py
with its queue of 16384, but a small encoder, since what grows with the clips is not the encoder;
after some hundred steps it is told to stop, saves its state, and the neighbours are those of that.
Each stage is a process of its own. Five times a second the memory of it and of all that it started
is summed: PSS, which counts a page that is shared by n processes as an n-th for each. The system's
cache of files is not in it. The first, small set tells how much of it is there without clips.
"""

import contextlib
import functools
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import _timing
import numpy as np
import psutil

from halp_jax.datasets import ntu, open_dataset, pipeline
from halp_jax.datasets.builder import prepare_source
from halp_jax.datasets.clip import Clip
from halp_jax.datasets.source import Item, Source
from halp_jax.skeletons import synthetic
from halp_jax.skeletons.layout import NTU25

QUICK = {"clips": 500, "small": 0, "width": 8, "queue": 256, "batch": 16, "steps": 4}
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "default.py"
LIMIT = 8e9  # bytes
INTERVAL = 0.2  # seconds between two looks
MOTIONS, LONGEST = 40, 300
STOPPED = 128 + signal.SIGTERM  # what a run exits with that was told to stop


def open_source(clips: int) -> Source:
    """A source of so many clips, in the manner of halp_jax/datasets."""
    return Source(
        format="noise", layout=NTU25, class_names=ntu.ACTIONS,
        items=tuple(Item(f"clip {index}", index) for index in range(clips)),
        read=read_item, splits=functools.partial(ntu.make_splits, num_classes=120), notes={},
    )  # fmt: skip


@functools.cache
def make_motions() -> list[np.ndarray]:
    """[300, 2, 25, 3] each: synthetic clips, played back and forth until they are long enough."""
    clips = [synthetic.make_clip(0, index) for index in range(MOTIONS)]
    clips = [np.concatenate([clip, clip[::-1]]) for clip in clips]
    return [np.resize(clip, (LONGEST, *clip.shape[1:])) for clip in clips]


def read_item(item: Item) -> list[Clip]:
    """One clip, with the names, subjects, cameras and lengths of NTU-120, nearly."""
    rng, index = np.random.default_rng(item.payload), item.payload
    motion = make_motions()[index % MOTIONS]
    length = int(np.clip(30 + rng.gamma(2, 25), 30, LONGEST))
    start = rng.integers(LONGEST - length + 1)
    frames = motion[start : start + length]
    noise = rng.standard_normal(frames.shape, np.float32)
    frames = np.where(frames == 0, frames, frames + np.float32(0.02) * noise)
    rest, subject = divmod(index, 106)
    rest, action = divmod(rest, 120)
    setup, camera = divmod(rest, 3)
    numbers = (setup + 1, camera + 1, subject + 1, 1, action + 1)
    name = "S{:03d}C{:03d}P{:03d}R{:03d}A{:03d}".format(*numbers)
    return [Clip(frames, action, name, subject + 1, camera=camera + 1, setup=setup + 1)]


def run_stage(command: Sequence[str], log: Path, is_enough=lambda: False) -> dict[str, float]:
    """Runs a command -> its seconds, and the peaks (bytes) of it and all that it has started."""
    start, peaks = time.perf_counter(), {"pss": 0, "rss": 0, "largest": 0, "processes": 0}
    told = False
    with open(log, "w") as stream:
        process = subprocess.Popen([sys.executable, *command], stdout=stream, stderr=stream)
        try:
            while process.poll() is None:
                for name, value in look(process.pid).items():
                    peaks[name] = max(peaks[name], value)
                if not told and is_enough():
                    told = True
                    process.terminate()
                time.sleep(INTERVAL)
        finally:
            process.kill()
    if process.returncode not in ((0, STOPPED) if told else (0,)):
        raise SystemExit(f"{' '.join(command)} failed:\n{log.read_text()[-2000:]}")
    return {"seconds": time.perf_counter() - start} | peaks


def count_steps(run: Path) -> int:
    """Steps that a training run has reported."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def look(root: int) -> dict[str, int]:
    """What a process and its descendants hold now: summed PSS and RSS, the largest PSS of one."""
    sizes = []
    with contextlib.suppress(psutil.Error):  # it has ended
        process = psutil.Process(root)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                sizes.append(each.memory_full_info())
    pss, rss = [size.pss for size in sizes], [size.rss for size in sizes]
    return {"pss": sum(pss), "rss": sum(rss), "largest": max(pss, default=0), "processes": len(pss)}


def measure(args, clips: int, folder: Path) -> list[dict]:
    """The stages on a set of so many clips, or on the one that is there -> rows."""
    data, run = Path(args.data or folder / f"clips{clips}"), folder / f"run{clips}"
    settings = {
        "data.dir": data.resolve(), "data.split": args.split, "encoder.width": args.width,
        "encoder.num_layers": args.layers, "train.batch_size": args.batch,
        "moco.queue_size": args.queue, "knn.every_epochs": 0,
        "train.log_every": min(20, args.steps),
    }  # fmt: skip
    options = [f"--config.{name}={value}" for name, value in settings.items()]
    prepare = ["--clips", str(clips), "--workers", str(args.workers), "--prepare", str(data)]
    stages = {
        "prepare": [__file__, *prepare],
        "train": ["-m", "halp_jax.train", f"--config={CONFIG}", f"--workdir={run}", *options],
        "kNN": ["-m", "halp_jax.evaluate", f"--workdir={run}", "--protocol=knn"],
    }
    if args.data:
        del stages["prepare"]
    if not args.steps:
        del stages["train"], stages["kNN"]
    rows = []
    for stage, command in stages.items():
        is_training = stage == "train"
        enough = (lambda: count_steps(run) >= args.steps) if is_training else (lambda: False)
        found = run_stage(command, folder / "log", enough)
        count = len(open_dataset(data))
        seen = count_steps(run) * args.batch if is_training else count
        rows.append({
            "stage": stage, "clips": count, "seconds": found["seconds"],
            "clips_per_s": seen / found["seconds"], "peak_gb": found["pss"] / 1e9,
            "of_limit": found["pss"] / LIMIT, "summed_rss_gb": found["rss"] / 1e9,
            "largest_gb": found["largest"] / 1e9, "processes": found["processes"],
            "disk_gb": sum(file.stat().st_size for file in data.iterdir()) / 1e9,
        })  # fmt: skip
        print(f"{stage}, {count} clips: {rows[-1]['peak_gb']:.2f} GB", flush=True)
    if not args.data:
        shutil.rmtree(data)
    return rows


def main() -> None:
    parser = _timing.make_parser(__doc__)
    parser.add_argument("--clips", type=int, default=114_000)
    about = "clips of a first set to compare with; 0: none"
    parser.add_argument("--small", type=int, default=2_000, help=about)
    parser.add_argument("--data", help="a prepared set to use instead")
    parser.add_argument("--split", default="xsub")
    parser.add_argument("--steps", type=int, default=300, help="of training; 0: only prepare")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--queue", type=int, default=16384)
    parser.add_argument("--workers", type=int, default=2, help="reader processes")
    parser.add_argument("--folder", help="where to work; default: the system's temporary folder")
    parser.add_argument("--prepare", metavar="OUT", help="only write the set (used by the script)")
    args = _timing.parse(parser, QUICK)
    pipeline.quiet_tensorflow()
    if args.prepare:
        prepare_source(open_source(args.clips), args.prepare, workers=args.workers)
        return
    machine = _timing.describe_machine()
    print(f"host memory: {machine['date']}, {machine['cpu']}, {machine['cores']} core(s)")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        small = measure(args, args.small, Path(folder)) if args.small and not args.data else []
        large = measure(args, args.clips, Path(folder))
    for before, row in zip(small, large, strict=False):
        more = row["peak_gb"] - before["peak_gb"]
        row["more_kb_a_clip"] = 1e6 * more / (row["clips"] - before["clips"])
    rows = small + large
    print()
    _timing.print_table(rows)
    worst = max(row["peak_gb"] for row in rows)
    print(f"\nmost: {worst:.2f} GB of PSS, limit {LIMIT / 1e9:.0f} GB")
    _timing.print_json(
        "memory", machine=machine, width=args.width, layers=args.layers, batch=args.batch,
        queue=args.queue, steps=args.steps, workers=args.workers, rows=rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
