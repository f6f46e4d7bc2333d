"""The table of train.py's results.jsonl: each row, and the paired differences of README.md.

python benchmarks/value/report.py benchmarks/value [--figure=docs/value.png]
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from scipy import stats
from train import ROWS, STEPS, read_results

MEASURES = ("joint 1-NN", "joint logistic", "all 1-NN", "all logistic")
TITLES = {"halp": "HaLP", "key": "no walk", "points": "toward clips", "random": "random directions"}
TITLES |= {"expected": "HaLP, integrated"}
COMPARISONS = [(row, "moco") for row in TITLES]
COMPARISONS += [("halp", row) for row in ("key", "points", "random")]
ADDED, ADDED_COUNT = [("own", "halp"), ("label", "halp")], 3  # the third: the best of the grid


def collect(lines: list[dict]) -> dict:
    """{(row, task, measure): per cent, by seed}."""
    frame = pd.DataFrame(lines)
    return {
        (row, task, name): 100 * group.set_index("seed")[name].sort_index()
        for (task, row), group in frame.groupby(["task", "row"])
        for name in MEASURES
    }


def compare(value: dict, ours: str, theirs: str, cell: tuple[str, str]) -> tuple | None:
    """The mean paired gain and half of its interval; None where a row has not run."""
    if (ours, *cell) not in value or (theirs, *cell) not in value:
        return None
    gain = (value[ours, *cell] - value[theirs, *cell]).dropna()  # seeds that both have
    count = ADDED_COUNT if (ours, theirs) in ADDED else len(COMPARISONS)
    half = stats.sem(gain) * stats.t.ppf(1 - 0.025 / count, len(gain) - 1)
    return gain.mean(), half


def report(lines: list[dict]) -> str:
    """Mean and standard deviation of each row, and the paired differences, as Markdown."""
    frame = pd.DataFrame(lines)
    cells = [(task, name) for task in frame.task.unique() for name in MEASURES]
    head = " | ".join(f"{task} {name}" for task, name in cells)
    rule = "|---|" + "---:|" * len(cells)
    value = collect(lines)
    rows = [
        row for row in ("raw", "untrained", *ROWS) if any((row, *cell) in value for cell in cells)
    ]

    def describe(row: str, cell: tuple[str, str]) -> str:
        x = value.get((row, *cell))
        if x is None:
            return "-"
        return f"{x.mean():.1f}" + (f" ± {x.std():.1f}" if len(x) > 1 else "")

    def tell(ours: str, theirs: str, cell: tuple[str, str]) -> str:
        if (found := compare(value, ours, theirs, cell)) is None:
            return "-"
        return f"{found[0]:+.2f} ± {found[1]:.2f}" + (" *" if abs(found[0]) > found[1] else "")

    out = [f"| | {head} |", rule]
    out += [
        f"| {row} | " + " | ".join(describe(row, cell) for cell in cells) + " |" for row in rows
    ]
    out += ["", f"| paired difference | {head} |", rule]
    out += [
        f"| {ours} - {theirs} | " + " | ".join(tell(ours, theirs, cell) for cell in cells) + " |"
        for ours, theirs in COMPARISONS + ADDED
        if {ours, theirs} <= set(rows)
    ]
    out.append(
        "\n± of a row: standard deviation over seeds; of a difference: half of the interval,"
    )
    level, added = 100 - 5 / len(COMPARISONS), 100 - 5 / ADDED_COUNT
    out.append(f"{level:.2f} % each ({added:.2f} % of own and label); *: it does not hold 0.")
    return "\n".join(out)


def draw(lines: list[dict], path: Path) -> None:
    """Gains over MoCo with their intervals, once all rows have run: a group a column, a mark a row."""
    value = collect(lines)
    cells = [
        (task, name) for task in dict.fromkeys(line["task"] for line in lines) for name in MEASURES
    ]
    figure, axes = plt.subplots(figsize=(9, 3.4), layout="constrained")
    for i, (row, title) in enumerate(TITLES.items()):
        gains, halves = zip(*(compare(value, row, "moco", cell) for cell in cells), strict=True)
        x = [j + 0.14 * (i - 2) for j in range(len(cells))]
        axes.errorbar(x, gains, halves, fmt="o", ms=4, lw=1.2, label=title)
    axes.axhline(0, color="0.4", lw=0.8)
    axes.set_xticks(
        range(len(cells)), [f"{t.split(':')[0]}\n{name}" for t, name in cells], fontsize=8
    )
    axes.set_ylabel("points above MoCo")
    axes.legend(fontsize=8, ncols=5, loc="upper center", frameon=False)
    axes.set_ylim(top=axes.get_ylim()[1] + 1)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--figure", type=Path, help="a picture of the gains")
    args = parser.parse_args()
    lines = [line for line in read_results(args.folder) if line["steps"] == STEPS]
    print(report(lines))
    if args.figure:
        draw(lines, args.figure)
