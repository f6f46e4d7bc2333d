"""The three-stream runs on real clips of RESULTS.md: MoCo, HaLP, CMD, HaLP+CMD; paired by seed.

    python benchmarks/real_streams.py --out=runs/streams --tasks=pku2p:xview,pku2p:xsub --seeds=0,1,2
    python benchmarks/real_streams.py --out=runs/streams --report    (--record keeps the figures)

As benchmarks/real_clips.py, with configs/small_streams.py: joint, motion and bone are trained in one
step, and every run is evaluated on each stream alone, their mean, concatenation, and ensemble.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import real_clips
from real_clips import PROTOCOLS, Job

CONFIG = "configs/small_streams.py"
RECORD = Path(__file__).with_name("real_streams.jsonl")
STREAMS = ("joint", "motion", "bone")
LOOKS = {"knn": (*STREAMS, "mean", "concat"), "linear": (*STREAMS, "concat", "ensemble")}
ROWS = {"raw": "raw coordinates", "random": "random encoders", "moco_longer": "MoCo"}
ROWS |= {"halp": "HaLP", "cmd": "CMD", "halp_cmd": "HaLP+CMD"}


def evaluate_job(workdir: Path, protocol: str, encoder: str, options: list[str]) -> Job:
    """All looks of one protocol; done when the last of them is."""
    job = real_clips.evaluate_job(workdir, protocol, encoder, f"{CONFIG}:baseline", options)
    looks = f"--stream={','.join(LOOKS[protocol])}"
    result = job.result.with_stem(f"{job.result.stem}_{LOOKS[protocol][-1]}")
    return job._replace(arguments=[*job.arguments, looks], result=result)


def plan(task: str, seed: int, args: argparse.Namespace) -> Iterator[Job]:
    """What is to be done for one (data set, split, seed), in order."""
    name, split = task.split(":")
    base = Path(args.out) / name / split
    options = [f"--config.data.dir={Path(args.data) / name}", f"--config.data.split={split}"]
    options += [f"--config.seed={seed}", *args.override]
    start = base / f"baseline_{seed}"
    for variant in ("baseline", *args.variants):
        workdir = base / f"{variant}_{seed}"
        init_from = "" if workdir == start else start
        job = real_clips.train_job(f"{CONFIG}:{variant}", workdir, options, init_from)
        if workdir == start:  # no result of its own: done when it has its last checkpoint
            yield job._replace(result=workdir / "done")
            continue
        yield job
        for protocol in PROTOCOLS:
            yield evaluate_job(workdir, protocol, "trained", options)
    untrained = {base / f"random_{seed}": "random"}
    if seed == 0:
        untrained |= {base / "raw": "raw"}
    for workdir, encoder in untrained.items():
        for protocol in PROTOCOLS:
            yield evaluate_job(workdir, protocol, encoder, options)


def run(task: str, seed: int, args: argparse.Namespace) -> None:
    for job in plan(task, seed, args):
        if job.result.exists():
            continue
        if status := real_clips.call(job):
            raise SystemExit(status)
        if job.result.name == "done":
            job.result.touch()


def collect(out: Path) -> dict:
    """{(task, row, protocol, stream, seed): line} of the finished and the recorded evaluations."""
    lines = (
        [json.loads(line) for line in RECORD.read_text().splitlines()] if RECORD.exists() else []
    )
    for path in sorted(out.glob("*/*/*/eval/*.json")):
        stream = json.loads(path.read_text())["stream"]
        lines.append(real_clips.read_result(path) | {"stream": stream})
    return {(x["task"], x["row"], x["protocol"], x["stream"], x["seed"]): x for x in lines}


def report(out: Path) -> str:
    found: dict = {}
    for (*cell, seed), line in collect(out).items():
        found.setdefault(tuple(cell), {})[seed] = 100 * line["top1"]
    text = []
    for task in sorted({cell[0] for cell in found}):
        for protocol, looks in LOOKS.items():
            text += [f"**{task}, {protocol}**", "", f"| | {' | '.join(looks)} |"]
            text.append("|---|" + "---:|" * len(looks))
            for row, title in ROWS.items():
                cells = [found.get((task, row, protocol, look), {}) for look in looks]
                if any(cells):
                    text.append(f"| {title} | {' | '.join(map(real_clips.spread, cells))} |")
            text += ["", "Paired by seed, difference to MoCo, 95 % interval (Student's t):", ""]
            for row in ("halp", "cmd", "halp_cmd"):
                for look in (looks[0], looks[-1]):
                    ours = found.get((task, row, protocol, look), {})
                    theirs = found.get((task, "moco_longer", protocol, look), {})
                    if both := sorted(ours.keys() & theirs.keys()):
                        difference = np.array([ours[s] - theirs[s] for s in both])
                        text.append(f"- {ROWS[row]}, {look}: {real_clips.interval(difference)}")
            text.append("")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/streams")
    parser.add_argument("--data", default="data")
    parser.add_argument("--tasks", default="pku2p:xview,pku2p:xsub")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--variants", default="moco_longer,halp,cmd,halp_cmd")
    parser.add_argument("--report", action="store_true", help="only print the tables")
    parser.add_argument("--record", action="store_true", help=f"add what is done to {RECORD.name}")
    args, args.override = parser.parse_known_args()
    args.variants = args.variants.split(",")
    if args.record:
        lines = collect(Path(args.out))
        RECORD.write_text("".join(json.dumps(lines[key]) + "\n" for key in sorted(lines)))
    elif not args.report:
        for seed in map(int, args.seeds.split(",")):
            for task in args.tasks.split(","):
                run(task, seed, args)
    print(report(Path(args.out)))


if __name__ == "__main__":
    main()
