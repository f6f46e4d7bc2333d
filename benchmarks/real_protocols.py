"""Fine-tuning on real clips for RESULTS.md: on all labels, on a few, after another set; and from scratch.

    python -m halp_jax.prepare --format=pyskl --source=nw_ucla_3danno.pkl --out=data/nwucla20 \\
        --as-layout=kinect20 --max-bodies=2 --normalize=view
    python -m halp_jax.prepare --format=pyskl --source=pku_mmd_v1_two_person_3danno.pkl \\
        --out=data/pku20 --as-layout=kinect20 --max-bodies=2 --normalize=view
    python benchmarks/real_protocols.py --out=runs/protocols --seeds=0,1,2
    python benchmarks/real_protocols.py --out=runs/protocols --report    (--record keeps the figures)

Both sets have 20 joints and two bodies here, so one encoder takes either. It is pre-trained on each
with configs/small.py (MoCo for 30 epochs, HaLP for 15 more); then every set is learnt from scratch,
from its own pre-training (finetune, semi) and from the other's (transfer), with the same settings.
Types the package's commands and does only what is missing.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import real_clips
from real_clips import CONFIG, Job

from halp_jax import evaluate

RECORD = Path(__file__).with_name("real_protocols.jsonl")
TASKS = {"pku20": "xperf", "nwucla20": "xsub"}
ROWS = {"scratch": "from scratch", "own": "pre-trained on it", "other": "pre-trained on the other"}
SETTINGS = {
    "finetune.epochs": 20, "finetune.milestones": (14, 18), "finetune.eval_every": 10,
    "finetune.learning_rate": 0.05, "finetune.keep_weights": False, "semi.runs": 1,
    "semi.fractions": (0.05, 0.1, 0.2),
}  # fmt: skip


def settings(name: str, seed: int, args: argparse.Namespace) -> list[str]:
    options = [f"--config.data.dir={Path(args.data) / name}", f"--config.data.split={TASKS[name]}"]
    return [*options, f"--config.seed={seed}", *args.override]


def pretrain(name: str, seed: int, args: argparse.Namespace) -> Iterator[Job]:
    """MoCo, then HaLP on top of it; done when they have been evaluated by 1-NN."""
    start = Path(args.out) / name / f"moco_{seed}"
    workdir, options = Path(args.out) / name / f"halp_{seed}", settings(name, seed, args)
    yield real_clips.train_job(f"{CONFIG}:baseline", start, options)
    yield real_clips.evaluate_job(start, "knn")
    yield real_clips.train_job(f"{CONFIG}:halp", workdir, options, start)
    yield real_clips.evaluate_job(workdir, "knn")


def learn(target: str, seed: int, args: argparse.Namespace) -> Iterator[tuple[str, Job]]:
    """(row, job) of everything that is learnt on one target."""
    (other,) = TASKS.keys() - {target}
    more = [f"--config.{name}={value}" for name, value in SETTINGS.items()]
    options = [*settings(target, seed, args), *more]
    own = Path(args.out) / target / f"halp_{seed}"
    scratch = Path(args.out) / target / f"random_{seed}"
    for protocol in ("finetune", "semi"):
        ending = "_0.2" if protocol == "semi" else ""
        for row, workdir, encoder in (("own", own, "trained"), ("scratch", scratch, "random")):
            job = real_clips.evaluate_job(workdir, protocol, encoder, f"{CONFIG}:halp", options)
            stem = f"{protocol}{ending}" + ("" if encoder == "trained" else "_random")
            arguments = job.arguments if row == "scratch" else [*job.arguments, *options]
            yield row, job._replace(arguments=arguments, result=workdir / f"eval/{stem}.json")
    workdir = Path(args.out) / other / f"halp_{seed}"
    arguments = [f"--workdir={workdir}", "--protocol=transfer", *options]
    yield "other", Job(evaluate, workdir, arguments, workdir / "eval" / "transfer.json")


def run(args: argparse.Namespace) -> None:
    for seed in args.seeds:
        jobs = [job for name in TASKS for job in pretrain(name, seed, args)]
        jobs += [job for name in TASKS for _, job in learn(name, seed, args)]
        for job in jobs:
            if not job.result.exists() and (status := real_clips.call(job)):
                raise SystemExit(status)


def collect(args: argparse.Namespace) -> dict:
    """{(target, row, column, seed): line} of the recorded and the finished evaluations."""
    lines = (
        [json.loads(line) for line in RECORD.read_text().splitlines()] if RECORD.exists() else []
    )
    for target in TASKS:
        for seed in args.seeds:
            for row, job in learn(target, seed, args):
                names = [job.result.name]
                if job.result.name.startswith("semi"):
                    names = [names[0].replace("0.2", f"{f:g}") for f in (0.05, 0.1, 0.2)]
                for path in (job.result.with_name(name) for name in names):
                    if path.exists():
                        result = json.loads(path.read_text())
                        column = (
                            f"{100 * result['fraction']:g} %" if "fraction" in result else "all"
                        )
                        line = {"task": target, "row": row, "column": column, "seed": seed}
                        keys = ("top1", "best_top1", "num_train", "num_test")
                        lines.append(line | {key: result[key] for key in keys})
    return {(x["task"], x["row"], x["column"], x["seed"]): x for x in lines}


def report(args: argparse.Namespace) -> str:
    found: dict = {}
    for (*cell, seed), line in collect(args).items():
        found.setdefault(tuple(cell), {})[seed] = 100 * line["top1"]
    columns, text = ("5 %", "10 %", "20 %", "all"), []
    for target, split in TASKS.items():
        text += [f"**{target}, {split}**", "", f"| labels | {' | '.join(columns)} |"]
        text.append("|---|" + "---:|" * len(columns))
        for row, title in ROWS.items():
            cells = [real_clips.spread(found.get((target, row, c), {})) for c in columns]
            text.append(f"| {title} | {' | '.join(cells)} |")
        text += ["", "Paired by seed, difference to scratch, 95 % interval (Student's t):", ""]
        for row in ("own", "other"):
            for column in columns:
                ours = found.get((target, row, column), {})
                theirs = found.get((target, "scratch", column), {})
                if both := sorted(ours.keys() & theirs.keys()):
                    difference = np.array([ours[s] - theirs[s] for s in both])
                    text.append(f"- {ROWS[row]}, {column}: {real_clips.interval(difference)}")
        text.append("")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/protocols")
    parser.add_argument("--data", default="data")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--report", action="store_true", help="only print the tables")
    parser.add_argument("--record", action="store_true", help=f"add what is done to {RECORD.name}")
    args, args.override = parser.parse_known_args()
    args.seeds = [int(s) for s in args.seeds.split(",")]
    if args.record:
        lines = collect(args)
        RECORD.write_text("".join(json.dumps(lines[key]) + "\n" for key in sorted(lines)))
    elif not args.report:
        run(args)
    print(report(args))


if __name__ == "__main__":
    main()
