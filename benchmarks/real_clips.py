"""The runs on real clips of RESULTS.md: raw coordinates, random encoder, MoCo, HaLP; paired by seed.

    python benchmarks/real_clips.py --out=runs/real --tasks=pku2p:xperf,nwucla:xsub --seeds=0,1,2
    python benchmarks/real_clips.py --out=runs/real --report      (--record keeps the figures)

Types the three commands of the package for each (data set, split, seed); started again it does only
what is missing, and passes --config.field=value on to all of them. Data sets are folders that
`halp_jax.prepare` wrote under --data. For each seed one baseline is trained, and from its last
checkpoint the variants go on for the same epochs.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from halp_jax import evaluate, train

CONFIG, START, REFERENCE = "configs/small.py", "baseline", "moco_longer"
RECORD = Path(__file__).with_name("real_clips.jsonl")  # the evaluations behind RESULTS.md
LONGER = ("moco_longer", "halp", "halp_expected")
PROTOCOLS = ("knn", "linear")
ROWS = {"raw": "raw coordinates", "random": "random encoder", "baseline": "MoCo, 30 epochs"}
ROWS |= {"moco_longer": "MoCo, 45 epochs", "halp": "HaLP from 30, 45 epochs"}
ROWS |= {"halp_expected": "HaLP geodesic expected, 45 epochs"}


class Job(NamedTuple):
    """One command of the package, and the file by which one sees that it is done."""

    module: Any
    workdir: Path
    arguments: list[str]
    result: Path


def train_job(config: str, workdir: Path, options: list[str], init_from: Any = "") -> Job:
    """A training run; done when its encoder has been evaluated."""
    arguments = [f"--config={config}", f"--workdir={workdir}", *options]
    arguments += [f"--config.init_from={init_from}"] if init_from else []
    return Job(train, workdir, arguments, workdir / "eval" / "knn.json")


def evaluate_job(
    workdir: Path, protocol: str, encoder: str = "trained", config: str = "", options: Any = ()
) -> Job:
    """One protocol; an encoder without training needs the config and its options."""
    arguments = [f"--workdir={workdir}", f"--protocol={protocol}", f"--encoder={encoder}"]
    ending = ""
    if encoder != "trained":
        arguments += [f"--config={config}", *options]
        ending = f"_{encoder}"
    return Job(evaluate, workdir, arguments, workdir / "eval" / f"{protocol}{ending}.json")


def call(job: Job, *more: str) -> int:
    """Types the command, with `more` options -> its exit status."""
    print("$", job.module.__name__, *job.arguments, *more, flush=True)
    return job.module.main([*job.arguments, *more])


def plan(task: str, seed: int, args: argparse.Namespace) -> Iterator[Job]:
    """What is to be done for one (data set, split, seed), in order."""
    name, split = task.split(":")
    base = Path(args.out) / name / split
    options = [f"--config.data.dir={Path(args.data) / name}", f"--config.data.split={split}"]
    options += [f"--config.seed={seed}", *args.override]
    untrained = {base / f"random_{seed}": "random"}
    if seed == args.seeds[0]:
        untrained = {base / "raw": "raw"} | untrained
    for workdir, encoder in untrained.items():
        for protocol in PROTOCOLS:
            yield evaluate_job(workdir, protocol, encoder, f"{CONFIG}:{START}", options)
    start = base / f"{START}_{seed}"
    for variant in (START, *args.variants):
        workdir = base / f"{variant}_{seed}"
        init_from = "" if workdir == start else start
        yield train_job(f"{CONFIG}:{variant}", workdir, options, init_from)
        # The state at which MoCo and HaLP part is no result of its own: 1-NN will do.
        for protocol in PROTOCOLS[:1] if workdir == start else PROTOCOLS:
            yield evaluate_job(workdir, protocol)


def run(task: str, seed: int, args: argparse.Namespace) -> None:
    for job in plan(task, seed, args):
        if not job.result.exists() and (status := call(job)):
            raise SystemExit(status)


def read_result(path: Path) -> dict:
    """One evaluation, OUT/NAME/SPLIT/ROW_SEED/eval/FILE, as a flat line."""
    result = json.loads(path.read_text())
    name, split, member = path.parts[-5:-2]
    row, _, seed = member.rpartition("_")
    row, seed = (row, int(seed)) if seed.isdigit() else (member, 0)
    line = {"task": f"{name}:{split}", "row": row, "protocol": result["protocol"], "seed": seed}
    return line | {key: result[key] for key in ("top1", "top5", "best_top1", "num_test", "step")}


def collect(out: Path) -> dict:
    """{(task, row, protocol, seed): line} of the finished evaluations, with the recorded ones."""
    lines = (
        [json.loads(line) for line in RECORD.read_text().splitlines()] if RECORD.exists() else []
    )
    lines += [read_result(path) for path in sorted(out.glob("*/*/*/eval/*.json"))]
    return {(x["task"], x["row"], x["protocol"], x["seed"]): x for x in lines}


def by_seed(lines: Iterable[dict]) -> dict:
    """(task, row, protocol) -> {seed: top1 in per cent}."""
    found: dict = {}
    for line in lines:
        cell = found.setdefault((line["task"], line["row"], line["protocol"]), {})
        cell[line["seed"]] = 100 * line["top1"]
    return found


def report(found: dict, others: Iterable[str]) -> str:
    """The table of all tasks, and how `others` differ from REFERENCE, as Markdown."""
    tasks = sorted({task for task, _, _ in found})
    lines = ["| | " + " | ".join(f"{t} {p}" for t in tasks for p in PROTOCOLS) + " |"]
    lines.append("|---|" + "---:|" * (len(tasks) * len(PROTOCOLS)))
    for row, title in ROWS.items():
        cells = [found.get((t, row, p), {}) for t in tasks for p in PROTOCOLS]
        if any(cells):
            lines.append(f"| {title} | " + " | ".join(map(spread, cells)) + " |")
    lines += [
        "",
        f"Paired by seed, difference to {ROWS[REFERENCE]}, 95 % interval (Student's t):",
        "",
    ]
    for task in tasks:
        for protocol in PROTOCOLS:
            for row in others:
                ours = found.get((task, row, protocol), {})
                theirs = found.get((task, REFERENCE, protocol), {})
                if both := sorted(ours.keys() & theirs.keys()):
                    difference = np.array([ours[s] - theirs[s] for s in both])
                    lines.append(f"- {task} {protocol}, {ROWS[row]}: {interval(difference)}")
    return "\n".join(lines)


def spread(cell: dict[int, float]) -> str:
    values = np.array(list(cell.values()))
    if len(values) < 2:
        return f"{values[0]:.1f}" if len(values) else "-"
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def interval(difference: np.ndarray) -> str:
    n = len(difference)
    if n < 2:
        return f"{difference[0]:+.1f} (one seed)"
    half = stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / n**0.5
    return f"{difference.mean():+.1f} [{difference.mean() - half:+.1f}, " + (
        f"{difference.mean() + half:+.1f}], {n} seeds"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/real")
    parser.add_argument("--data", default="data")
    parser.add_argument("--tasks", default="pku2p:xperf")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--variants", default=",".join(LONGER))
    parser.add_argument("--report", action="store_true", help="only print the table")
    parser.add_argument("--record", action="store_true", help=f"add what is done to {RECORD.name}")
    args, args.override = parser.parse_known_args()
    args.seeds = [int(s) for s in args.seeds.split(",")]
    args.variants = args.variants.split(",")
    if args.record:
        lines = collect(Path(args.out))
        RECORD.write_text("".join(json.dumps(lines[key]) + "\n" for key in sorted(lines)))
    elif not args.report:
        for seed in args.seeds:
            for task in args.tasks.split(","):
                run(task, seed, args)
    found = by_seed(collect(Path(args.out)).values())
    print(report(found, [each for each in args.variants if each != REFERENCE]))


if __name__ == "__main__":
    main()
