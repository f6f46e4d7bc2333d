"""The table of train.py's results.jsonl: each row, and the paired differences of README.md.

python benchmarks/value/report.py runs/value
"""

import argparse
from pathlib import Path

import pandas as pd
from scipy import stats
from train import ROWS, read_results

MEASURES = ("joint 1-NN", "joint logistic", "all 1-NN", "all logistic")
COMPARISONS = [(row, "moco") for row in ("halp", "key", "points", "random", "expected")]
COMPARISONS += [("halp", row) for row in ("key", "points", "random")]


def report(lines: list[dict]) -> str:
    """Mean and standard deviation of each row, and the paired differences, as Markdown."""
    frame = pd.DataFrame(lines)
    cells = [(task, name) for task in frame.task.unique() for name in MEASURES]
    head = " | ".join(f"{task} {name}" for task, name in cells)
    rule = "|---|" + "---:|" * len(cells)
    value = {
        (row, task, name): 100 * group.set_index("seed")[name].sort_index()
        for (task, row), group in frame.groupby(["task", "row"])
        for name in MEASURES
    }
    rows = [
        row for row in ("raw", "untrained", *ROWS) if any((row, *cell) in value for cell in cells)
    ]

    def describe(row: str, cell: tuple[str, str]) -> str:
        x = value.get((row, *cell))
        if x is None:
            return "-"
        return f"{x.mean():.1f}" + (f" ± {x.std():.1f}" if len(x) > 1 else "")

    def compare(ours: str, theirs: str, cell: tuple[str, str]) -> str:
        if (ours, *cell) not in value or (theirs, *cell) not in value:
            return "-"
        gain = (value[ours, *cell] - value[theirs, *cell]).dropna()  # seeds that both have
        half = stats.sem(gain) * stats.t.ppf(1 - 0.025 / len(COMPARISONS), len(gain) - 1)
        return f"{gain.mean():+.2f} ± {half:.2f}" + (" *" if abs(gain.mean()) > half else "")

    out = [f"| | {head} |", rule]
    out += [
        f"| {row} | " + " | ".join(describe(row, cell) for cell in cells) + " |" for row in rows
    ]
    out += ["", f"| paired difference | {head} |", rule]
    out += [
        f"| {ours} - {theirs} | " + " | ".join(compare(ours, theirs, cell) for cell in cells) + " |"
        for ours, theirs in COMPARISONS
    ]
    out.append(
        "\n± of a row: standard deviation over seeds; of a difference: half of the interval,"
    )
    out.append(f"{100 - 5 / len(COMPARISONS):.2f} % each (Bonferroni); *: it does not hold 0.")
    return "\n".join(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    print(report(read_results(parser.parse_args().folder)))
