"""The runs on real clips of RESULTS.md: raw coordinates, random encoder, MoCo, HaLP; paired by seed.

    python benchmarks/real_clips.py --out=runs/real --tasks=pku2p:xperf,nwucla:xsub --seeds=0,1,2
    python benchmarks/real_clips.py --out=runs/real --report      (--record keeps the figures)

Types the three commands of the package for each (data set, split, seed); started again it does only
what is missing. Data sets are folders that `halp_jax.prepare` wrote under --data. For each seed one
MoCo baseline is trained, and from its last checkpoint MoCo and HaLP go on for the same epochs.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import stats

from halp_jax import evaluate, train

CONFIG = "configs/small.py"
RECORD = Path(__file__).with_name("real_clips.jsonl")  # the evaluations behind RESULTS.md
LONGER = ("moco_longer", "halp", "halp_expected")
PROTOCOLS = ("knn", "linear")
ROWS = {"raw": "raw coordinates", "random": "random encoder", "baseline": "MoCo, 30 epochs"}
ROWS |= {"moco_longer": "MoCo, 45 epochs", "halp": "HaLP from 30, 45 epochs"}
ROWS |= {"halp_expected": "HaLP geodesic expected, 45 epochs"}


def call(module, *arguments: str) -> None:
    print("$", module.__name__, *arguments, flush=True)
    if status := module.main(list(arguments)):
        raise SystemExit(status)


def run(task: str, seed: int, args: argparse.Namespace) -> None:
    name, split = task.split(":")
    base = Path(args.out) / name / split
    options = [f"--config.data.dir={Path(args.data) / name}", f"--config.data.split={split}"]
    options += [f"--config.seed={seed}", *args.override]

    def assess(workdir: Path, encoder: str) -> None:
        # The state at which MoCo and HaLP part is no result of its own: 1-NN will do.
        for protocol in PROTOCOLS[:1] if workdir == start else PROTOCOLS:
            ending = "" if encoder == "trained" else f"_{encoder}"
            if (workdir / "eval" / f"{protocol}{ending}.json").exists():
                continue
            more = [] if encoder == "trained" else [f"--config={CONFIG}:baseline", *options]
            where = [f"--workdir={workdir}", f"--protocol={protocol}", f"--encoder={encoder}"]
            call(evaluate, *where, *more)

    start = base / f"baseline_{seed}"
    if seed == args.seeds[0]:
        assess(base / "raw", "raw")
    assess(base / f"random_{seed}", "random")
    for variant in ("baseline", *args.variants):
        workdir = base / f"{variant}_{seed}"
        if not (workdir / "eval" / "knn.json").exists():
            warm = [] if variant == "baseline" else [f"--config.init_from={start}"]
            where = [f"--config={CONFIG}:{variant}", f"--workdir={workdir}"]
            call(train, *where, *options, *warm)
        assess(workdir, "trained")


def collect(out: Path) -> dict:
    """{(task, row, protocol, seed): line} of the finished evaluations, with the recorded ones."""
    lines = (
        [json.loads(line) for line in RECORD.read_text().splitlines()] if RECORD.exists() else []
    )
    for path in sorted(out.glob("*/*/*/eval/*.json")):
        result = json.loads(path.read_text())
        name, split, member = path.parts[-5:-2]
        row, _, seed = member.rpartition("_")
        row, seed = (row, int(seed)) if seed.isdigit() else (member, 0)
        line = {"task": f"{name}:{split}", "row": row, "protocol": result["protocol"], "seed": seed}
        line |= {key: result[key] for key in ("top1", "top5", "best_top1", "num_test", "step")}
        lines.append(line)
    return {(x["task"], x["row"], x["protocol"], x["seed"]): x for x in lines}


def read(out: Path) -> dict:
    """(task, row, protocol) -> {seed: top1 in per cent}."""
    found: dict = {}
    for (*cell, seed), line in collect(out).items():
        found.setdefault(tuple(cell), {})[seed] = 100 * line["top1"]
    return found


def report(out: Path) -> str:
    found = read(out)
    tasks = sorted({task for task, _, _ in found})
    lines = ["| | " + " | ".join(f"{t} {p}" for t in tasks for p in PROTOCOLS) + " |"]
    lines.append("|---|" + "---:|" * (len(tasks) * len(PROTOCOLS)))
    for row, title in ROWS.items():
        cells = [found.get((t, row, p), {}) for t in tasks for p in PROTOCOLS]
        if any(cells):
            lines.append(f"| {title} | " + " | ".join(map(spread, cells)) + " |")
    lines += [
        "",
        "Paired by seed, difference to MoCo of 45 epochs, 95 % interval (Student's t):",
        "",
    ]
    for task in tasks:
        for protocol in PROTOCOLS:
            for row in ("halp", "halp_expected"):
                ours = found.get((task, row, protocol), {})
                theirs = found.get((task, "moco_longer", protocol), {})
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
    print(report(Path(args.out)))


if __name__ == "__main__":
    main()
