"""Do HaLP's positives keep their class? Measured on trained runs, for RESULTS.md.

    python benchmarks/keep_class.py runs/pku2p_xview/small_0 runs/pku2p_xview/small_1 --stream=joint

For each run, solver, draw and lambda: the share of kept positives whose nearest real clip (another
than the anchor) has the anchor's label, beside the share without any walk, with positives exchanged at
random, and with walks of the same angle in a direction that knows no prototype; see
halp_jax/inspect/classes.py. Runs on one data set and split, their seeds, are averaged: mean ± standard
deviation. The anchors are the training clips; no label was used to train.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from halp_jax.inspect import anchors, classes

COLUMNS = ("kept", "share", "blind", "floor", "degrees", "closeness")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--lambdas", default="0.2,0.5,0.8,1")
    parser.add_argument("--solvers", default=",".join(anchors.SOLVERS))
    parser.add_argument("--positives", type=int, default=8, help="of each anchor")
    parser.add_argument("--stream", default="")
    parser.add_argument("--quick", action="store_true", help="100 clips, one lambda: does it run?")
    args = parser.parse_args()
    args.lambdas = [0.8] if args.quick else [float(lam) for lam in args.lambdas.split(",")]
    return args


def measure(workdir: Path, args: argparse.Namespace) -> tuple[str, list[dict]]:
    """(data set and split, a row for each setting) of one run."""
    run = anchors.open_run(workdir, stream=args.stream, max_clips=100 if args.quick else None)
    name = f"{Path(run.config.data.dir).name}:{run.config.data.split}"
    rows = classes.keep_class(
        run, args.solvers.split(","), lams=args.lambdas, num_positives=args.positives
    )
    found = [
        {key: value for key, value in row._asdict().items() if key != "matrix"}
        | {"run": str(workdir), "step": run.step, "clips": len(run.anchors), "prototypes": run.origin}
        for row in rows
    ]  # fmt: skip
    print(f"{workdir}: {name}, {len(run.anchors)} clips, prototypes of {run.origin}", flush=True)
    return name, found


def format_table(name: str, rows: list[dict]) -> str:
    """Markdown: a line for each setting, the runs of one data set averaged."""
    runs = sorted({row["run"] for row in rows})
    at_anchor = [next(row["at_anchor"] for row in rows if row["run"] == run) for run in runs]
    lines = [
        f"**{name}**, {rows[0]['clips']} clips, {len(runs)} run{'s' * (len(runs) > 1)}; "
        f"without any walk {_mean(at_anchor, 100)} % have the label of the nearest clip",
        "",
        "| solver | draw | λ | kept | keep their class | same angle, blind | exchanged | angle |"
        " similarity to that clip |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for setting in dict.fromkeys((row["solver"], row["draw"], row["lam"]) for row in rows):
        same = [row for row in rows if (row["solver"], row["draw"], row["lam"]) == setting]
        kept, share, blind, floor, degrees, closeness = (
            [row[column] for row in same] for column in COLUMNS
        )
        cells = [_mean(values, 100) for values in (kept, share, blind, floor)]
        cells += [f"{np.mean(degrees):.0f}°", f"{np.mean(closeness):.2f}"]
        lines.append(
            f"| {setting[0]} | {setting[1]} | {setting[2]:g} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def _mean(values: list[float], scale: float) -> str:
    values = scale * np.array(values)
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")


def main() -> None:
    args = parse_args()
    found: dict[str, list[dict]] = {}
    for workdir in args.workdirs:
        name, rows = measure(workdir, args)
        found.setdefault(name, []).extend(rows)
    for name, rows in found.items():
        print("\n" + format_table(name, rows))
    print("\n" + json.dumps({"benchmark": "keep_class", "results": found}))


if __name__ == "__main__":
    main()
