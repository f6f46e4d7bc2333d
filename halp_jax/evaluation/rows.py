"""Joins the evaluations of one experiment into a row, a cell a protocol.

What is averaged is runs of different seeds and nothing else: other data, splits and settings are
other rows (`experiments`), and two runs of one experiment with one seed are refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from halp_jax.errors import UserError
from halp_jax.evaluation import experiments, paper, table
from halp_jax.evaluation.gather import STREAM_ORDER, Entry


class Cell(NamedTuple):
    """A figure over seeds; `draws` that sd is over in its place, for semi of a single seed."""

    figure: table.Figure
    seeds: tuple[int, ...]
    workdirs: tuple[str, ...]
    paper: float | None = None
    draws: int = 0


class Row(NamedTuple):
    name: str
    data: str
    method: str  # "" without training
    encoder: str
    stream: str
    cells: dict[str, Cell]


class Table(NamedTuple):
    """Rows and the columns that they have, in order; notes are lines to stand below."""

    measure: str
    columns: list[str]
    rows: list[Row]
    notes: list[str]


def tabulate(entries: Sequence[Entry], measure: str, *, with_paper: bool = True) -> Table:
    """The table of all entries. Raises UserError where a seed of an experiment is there twice."""
    cells: dict[tuple, dict[str, list[Entry]]] = {}
    for entry in entries:
        parts = (entry.data, entry.result["encoder"], entry.method, entry.result["stream"])
        key = (*parts, tuple(sorted(entry.settings.items())))
        cells.setdefault(key, {}).setdefault(table.column_name(entry.result), []).append(entry)
    groups = _split_unlike(cells)
    names, notes = _name_rows(groups, measure if with_paper else "")
    columns = {column: group[0] for _, _, row in groups for column, group in row.items()}
    rows = []
    for name, (_, _, row) in zip(names, groups, strict=True):
        made = {
            column: _make_cell(f"{name}, {column}", group, measure, with_paper)
            for column, group in row.items()
        }
        first = next(iter(row.values()))[0]
        result = first.result
        rows.append(Row(name, first.data, first.method, result["encoder"], result["stream"], made))
    ordered = sorted(columns, key=lambda column: _column_order(columns[column]))
    return Table(measure, ordered, rows, notes)


def _column_order(entry: Entry) -> tuple:
    result = entry.result
    k = result["config"]["knn"]["k"] if result["protocol"] == "knn" else 0
    return experiments.PROTOCOLS.index(result["protocol"]), k, result.get("fraction", 0)


def _split_unlike(cells: Mapping[tuple, Mapping[str, list[Entry]]]) -> list[tuple]:
    """Rows as (first entry, how it was evaluated, column -> entries), in the order of the table.

    Entries of one cell that were evaluated with different settings go to rows of their own.
    """
    groups = []
    for row in cells.values():
        rows: dict[tuple, dict[str, list[Entry]]] = {}
        for column, group in row.items():
            fields = {field: None for entry in group for field in entry.evaluated}
            unlike = [f for f in fields if len({entry.evaluated.get(f) for entry in group}) > 1]
            for entry in group:
                key = tuple((field, entry.evaluated.get(field)) for field in unlike)
                rows.setdefault(key, {}).setdefault(column, []).append(entry)
        for key, row in rows.items():
            groups.append((next(iter(row.values()))[0], key, row))
    return sorted(groups, key=_row_order)


def _row_order(group: tuple) -> tuple:
    entry, evaluated, _ = group
    trained = bool(entry.method)
    settings = dict(entry.settings)
    streams = settings.pop("streams", ())
    place = STREAM_ORDER.index(entry.result["stream"])
    encoder = list(table.ROWS).index(entry.result["encoder"])
    return (
        entry.data, encoder, [*experiments.METHODS, entry.method].index(entry.method) if trained else 0,
        streams if trained else (), [_sortable(*pair) for pair in sorted(settings.items())],
        place, streams, [_sortable(*pair) for pair in evaluated],
    )  # fmt: skip


def _sortable(field: str, value: Any) -> tuple:
    """Numbers by size, all else by its text, which numbers come before."""
    number = isinstance(value, int | float)
    return field, not number, value if number else 0, str(value)


def _name_rows(groups: Sequence[tuple], measure: str) -> tuple[list[str], list[str]]:
    """The rows' names, and notes on what differs besides; `measure` that the paper's are of."""
    alike: dict[tuple, list[int]] = {}  # rows to tell apart by their settings
    for i, (entry, _, _) in enumerate(groups):
        alike.setdefault((entry.data, bool(entry.method), entry.result["encoder"]), []).append(i)
    names, besides = {}, {}
    for chosen in alike.values():
        entries = [groups[i][0] for i in chosen]
        differing, more = experiments.find_differences(
            [entry.settings for entry in entries],
            [(entry.method, "streams" in entry.settings) for entry in entries],
        )
        besides |= dict.fromkeys(more)
        for i, shown in zip(chosen, differing, strict=True):
            entry, evaluated, row = groups[i]
            beside = any(_paper(group[0], measure) is not None for group in row.values())
            departures = paper.departures(entry.settings) if beside else ()
            shown = {field: entry.settings[field] for field in departures} | shown
            if shown.get("streams") == experiments.USUAL_STREAMS.get(entry.method, ()):
                del shown["streams"]
            parts = [entry.method] if entry.method else []
            parts += [entry.data, _row_name(entry.result)]
            shown = [*shown.items(), *evaluated]
            parts += [experiments.format_setting(field, value) for field, value in shown]
            names[i] = ", ".join(parts)
    notes = []
    if besides:
        notes.append(f"some rows differ in more than their names say: {', '.join(besides)}")
    unlike = _unlike_evaluations(groups)
    if unlike:
        notes.append(f"not all rows were evaluated alike: {', '.join(unlike)}")
    return [names[i] for i in range(len(groups))], notes


def _unlike_evaluations(groups: Sequence[tuple]) -> list[str]:
    """Fields in which the evaluations of one column differ between rows of one data set."""
    values: dict[tuple, set] = {}
    for entry, named, row in groups:
        for column, group in row.items():
            for field, value in group[0].evaluated.items():
                if field != "step" and field not in dict(named):
                    values.setdefault((entry.data, column, field), set()).add(value)
    return list(dict.fromkeys(key[-1] for key, found in values.items() if len(found) > 1))


def _row_name(result: Mapping[str, Any]) -> str:
    """As `table.row_name`, but any stream but joint is named: runs may have other first ones."""
    name, stream = table.row_name(result), result["stream"]
    return name if stream == "joint" or name.endswith(stream) else f"{name}, {stream}"


def _paper(entry: Entry, measure: str) -> float | None:
    return paper.find_figure(entry.result, entry.method, entry.source, measure)


def _make_cell(name: str, group: Sequence[Entry], measure: str, with_paper: bool) -> Cell:
    by_seed: dict[int, list[Entry]] = {}
    for entry in group:
        by_seed.setdefault(entry.seed, []).append(entry)
    chosen = [_choose(name, by_seed[seed]) for seed in sorted(by_seed)]
    values = [entry.value for entry in chosen]
    sd, draws = float(np.std(values, ddof=1)) if len(values) > 1 else None, 0
    result = chosen[0].result
    if len(values) == 1 and measure == "top1" and result.get("top1_sd") is not None:
        sd, draws = float(result["top1_sd"]), len(result["top1_runs"])
    return Cell(
        table.Figure(float(np.mean(values)), sd, len(values)),
        tuple(entry.seed for entry in chosen),
        tuple(str(entry.run.workdir) for entry in chosen),
        _paper(chosen[0], measure) if with_paper else None,
        draws,
    )


def _choose(name: str, same: Sequence[Entry]) -> Entry:
    """The one entry of this seed: the only one, or the only one that was asked for by its path.

    Of encoders without training, which many runs' folders may have, any where all agree.
    """
    if len(same) > 1:
        same = [entry for entry in same if entry.run.named] or same
    agreed = not same[0].method and len({entry.value for entry in same}) == 1
    if len(same) == 1 or agreed:
        return same[0]
    raise UserError(
        f"{same[0].path} and {same[1].path} are both of seed {same[0].seed} of {name!r}; leave one "
        "out, or give the run to take by its own path beside the folder of all"
    )
