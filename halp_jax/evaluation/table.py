"""From predictions to figures, and from the figures of many runs to the tables of the results.

Accuracies are shares in [0, 1] in files and functions; tables print them in percent, as papers do.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from halp_jax.errors import UserError
from halp_jax.evaluation.streams import COMBINED

# Rows of the results, the cheapest claim first: an encoder has to beat the ones above it.
ROWS = {"raw": "raw coordinates", "random": "random encoder", "trained": "pre-trained"}


class Figure(NamedTuple):
    """A result over `count` runs; sd is the sample standard deviation, None for a single run."""

    mean: float
    sd: float | None
    count: int


Rows = Mapping[str, Mapping[str, Figure | float]]


def summarize(
    predictions: Int[np.ndarray, "clips"],
    labels: Int[np.ndarray, "clips"],
    num_classes: int,
    *,
    top5: float,
) -> dict[str, Any]:
    """top1, top5, per_class (accuracy a class, None for one without clips) and confusion counts.

    confusion[i, j] counts the clips of class i that were taken for class j.
    """
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    return {
        "top1": float(np.trace(confusion) / confusion.sum()),
        "top5": top5,
        "per_class": class_accuracies(confusion),
        "confusion": confusion,
    }


def class_accuracies(confusion: Int[np.ndarray, "classes classes"]) -> list[float | None]:
    """The share of each class that was right, None for one without clips."""
    totals, right = confusion.sum(axis=1), np.diag(confusion)
    return [float(r / n) if n else None for r, n in zip(right, totals, strict=True)]


def name_classes(figures: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The figures of `summarize`, ready for a file: accuracies by class name, plain numbers."""
    return {
        **figures,
        "per_class": dict(zip(names, figures["per_class"], strict=True)),
        "confusion": {"class_names": list(names), "counts": figures["confusion"].tolist()},
    }


def read_results(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The contents of every WORKDIR/eval/*.json, in the order of their names."""
    paths = sorted((Path(workdir) / "eval").glob("*.json"))
    if not paths:
        raise UserError(f"{workdir} has no eval/*.json; run halp_jax.evaluate on it first")
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def result_path(workdir: str | os.PathLike[str], result: Mapping[str, Any]) -> Path:
    """WORKDIR/eval/PROTOCOL.json, where a result belongs.

    Encoders without training, other streams than a run's first, and fractions of the labels have
    files of their own: knn_random.json, knn_motion.json, knn_raw_mean.json, semi_0.05.json; so has
    another part than test: knn_val.json.
    """
    ending = "" if result["encoder"] == "trained" else f"_{result['encoder']}"
    ending += f"_{result['stream']}" if _is_other_stream(result) else ""
    ending += f"_{part}" if (part := result.get("part", "test")) != "test" else ""
    if "fraction" in result:
        ending = f"_{result['fraction']:g}{ending}"
    return Path(workdir) / "eval" / f"{result['protocol']}{ending}.json"


def write_result(workdir: str | os.PathLike[str], result: Mapping[str, Any]) -> Path:
    """Writes the result to its file, whole or not at all -> its path."""
    path = result_path(workdir, result)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)
    return path


def row_name(result: Mapping[str, Any]) -> str:
    """The row a result belongs to: the encoder, and the stream where it is not the run's first."""
    name = ROWS[result["encoder"]]
    if (result["stream"], result["encoder"]) == ("graph", "raw"):
        name = "sums of node features"
    return f"{name}, {result['stream']}" if _is_other_stream(result) else name


def _is_other_stream(result: Mapping[str, Any]) -> bool:
    return result["stream"] != result["config"]["streams"][0]


def _row_order(result: Mapping[str, Any]) -> tuple[int, int]:
    looks = [*result["config"]["streams"], *COMBINED]
    return list(ROWS).index(result["encoder"]), looks.index(result["stream"])


def column_name(result: Mapping[str, Any]) -> str:
    """The column a result belongs to: "1-NN", "semi 5 %" or the protocol's own name."""
    if result["protocol"] == "knn":
        return f"{result['config']['knn']['k']}-NN"
    if "fraction" in result:
        return f"{result['protocol']} {100 * result['fraction']:g} %"
    return result["protocol"]


def gather(
    workdirs: Iterable[str | os.PathLike[str]], measure: str = "top1"
) -> dict[str, dict[str, Figure]]:
    """Mean and standard deviation over runs (one workdir a seed): row name -> column -> Figure.

    Rows come in the order of ROWS, an encoder's further streams after its first. Raises UserError
    where the runs' results are not of the same split.
    """
    results = [(workdir, result) for workdir in workdirs for result in read_results(workdir)]
    values: dict[str, dict[str, list[float]]] = {}
    splits: dict[tuple[str, str], str] = {}
    for workdir, result in sorted(results, key=lambda pair: _row_order(pair[1])):
        row, column = row_name(result), column_name(result)
        known = splits.setdefault((row, column), result["split"])
        if known != result["split"]:
            raise UserError(
                f"{workdir}/eval: {row}, {column} is of split {result['split']}, another run's "
                f"of {known}; evaluate them alike"
            )
        values.setdefault(row, {}).setdefault(column, []).append(result[measure])
    return {
        row: {column: _figure(numbers) for column, numbers in columns.items()}
        for row, columns in values.items()
    }


def _figure(numbers: list[float]) -> Figure:
    sd = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
    return Figure(float(np.mean(numbers)), sd, len(numbers))


def format_table(rows: Rows, *, markdown: bool = False) -> str:
    """`rows`: name -> column -> accuracy in [0, 1] or Figure; a cell that is missing prints "-".

    Columns come in the order in which they first appear. Ends without a newline.
    """
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    lines = [["", *columns]]
    for name, cells in rows.items():
        lines.append([name, *(format_figure(cells.get(column)) for column in columns)])
    return align(lines, markdown=markdown)


def align(lines: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """Header and rows with columns of one width, the first flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        [line[0].ljust(widths[0])]
        + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        for line in lines
    ]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in padded)
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])


def format_figure(value: Figure | float | None) -> str:
    """Per cent with one digit: "79.1 ± 0.3", "79.1", or "-"."""
    if value is None:
        return "-"
    if not isinstance(value, Figure):
        return f"{100 * value:.1f}"
    if value.sd is None:
        return f"{100 * value.mean:.1f}"
    return f"{100 * value.mean:.1f} ± {100 * value.sd:.1f}"
