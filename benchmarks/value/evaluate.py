"""The rows of train.py: 1-NN and logistic regression of each seed, and what README.md calls a result.

    python benchmarks/value/evaluate.py runs/value [--report]

Each figure is a line of FOLDER/results.jsonl; what is there already is not computed again.
"""

import argparse
import itertools
import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

for library in ("OMP", "OPENBLAS", "MKL"):  # processes side by side, one thread each
    os.environ[f"{library}_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from scipy import stats  # noqa: E402
from sklearn.linear_model import LogisticRegressionCV  # noqa: E402

ROWS = ("untrained", "moco", "halp", "key", "points", "random", "expected")
STREAMS = {"joint": [0], "three": [0, 1, 2]}
COMPARISONS = [(row, "moco") for row in ("halp", "key", "points", "random", "expected")]
COMPARISONS += [("halp", row) for row in ("key", "points", "random")]


def combine(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Streams [streams, clips, features] side by side, each centred and scaled to unit mean norm."""
    centred = features - features[:, train].mean(1, keepdims=True)
    norm = np.linalg.norm(centred[:, train], axis=-1).mean(1)
    return np.concatenate(list(centred / norm[:, None, None]), axis=-1)


def nearest(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Cosine 1-NN, per cent of the test clips."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = train[np.argmax(unit[test] @ unit[train].T, axis=1)]
    return 100 * float(np.mean(y[found] == y[test]))


def logistic(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Logistic regression, C chosen on the training clips, per cent of the test clips."""
    x = (x - x[train].mean(0)) / (x[train].std(0) + 1e-6)
    model = LogisticRegressionCV(Cs=[0.01, 0.1, 1.0], cv=5, max_iter=300)
    return 100 * float(model.fit(x[train], y[train]).score(x[test], y[test]))


def evaluate(file: Path, seed: int) -> list[dict]:
    task, row = file.stem.rsplit("_", 1)
    with np.load(file.with_name(f"{task}_moco.npz")) as found:
        y, train, test = (found[name] for name in ("labels", "train", "test"))
    features = np.load(file)["features"][seed].astype(np.float64)
    lines = []
    for name, chosen in STREAMS.items():
        x = combine(features[chosen], train)
        for measure, function in {"1-NN": nearest, "logistic": logistic}.items():
            value = function(x, y, train, test)
            line = {"task": task, "row": row, "seed": seed, "stream": name, "measure": measure}
            lines.append(line | {"top1": round(value, 3)})
    return lines


def report(lines: list[dict]) -> str:
    """Mean and standard deviation of each row, and the paired differences, as Markdown."""
    frame = pd.DataFrame(lines)
    columns = ["task", "stream", "measure"]
    table = frame.pivot_table("top1", "row", columns, aggfunc=["mean", "std"])
    rows = [row for row in ROWS if row in table.index]
    cells = list(table["mean"].columns)
    out = ["| | " + " | ".join(" ".join(cell) for cell in cells) + " |"]
    out.append("|---|" + "---:|" * len(cells))
    for row in rows:
        pairs = ((table["mean"][cell][row], table["std"][cell][row]) for cell in cells)
        out.append(f"| {row} | " + " | ".join(f"{m:.1f} ± {s:.1f}" for m, s in pairs) + " |")
    out += ["", "| difference | " + " | ".join(" ".join(cell) for cell in cells) + " |"]
    out.append("|---|" + "---:|" * len(cells))
    seeds = frame.pivot_table("top1", "seed", ["row", *columns])
    for ours, theirs in COMPARISONS:
        if ours not in rows or theirs not in rows:
            continue
        texts = []
        for cell in cells:
            gain = (seeds[(ours, *cell)] - seeds[(theirs, *cell)]).to_numpy()
            error = stats.sem(gain) * stats.t.ppf(1 - 0.025 / len(COMPARISONS), len(gain) - 1)
            mark = "" if abs(gain.mean()) < error else " *"
            texts.append(f"{gain.mean():+.2f} ± {error:.2f}{mark}")
        out.append(f"| {ours} - {theirs} | " + " | ".join(texts) + " |")
    out.append(
        f"\n± of differences: half of the {1 - 0.05 / len(COMPARISONS):.2%} interval; *: without 0."
    )
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--report", action="store_true", help="only what was computed")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    record = args.folder / "results.jsonl"
    lines = [json.loads(x) for x in record.read_text().splitlines()] if record.exists() else []
    done = {(x["task"], x["row"], x["seed"]) for x in lines}
    files = sorted(args.folder.glob("*_*_*.npz"))
    jobs = []
    for file in files:
        task, row = file.stem.rsplit("_", 1)
        count = len(np.load(file)["features"])
        jobs += [(file, seed) for seed in range(count) if (task, row, seed) not in done]
    if jobs and not args.report:
        with ProcessPoolExecutor(args.processes) as pool, open(record, "a") as out:
            for found in pool.map(evaluate, *zip(*jobs, strict=True)):
                lines += found
                out.writelines(json.dumps(line) + "\n" for line in found)
                out.flush()
    print(report(list(itertools.chain(lines))))


if __name__ == "__main__":
    main()
