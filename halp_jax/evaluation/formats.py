"""The table of many runs as text, Markdown, LaTeX or CSV.

The first three show per cent, mean ± standard deviation over seeds, and the paper's figure in
brackets; CSV has a line a cell, with shares in [0, 1] like the files that `evaluate` writes.
"""

import csv
import io
from collections.abc import Callable

from halp_jax.evaluation import table
from halp_jax.evaluation.rows import Cell, Row, Table

FIELDS = (
    "row", "method", "data", "encoder", "stream", "protocol", "measure", "mean", "sd", "count",
    "sd_over", "seeds", "paper", "workdirs",
)  # fmt: skip


def format_cell(cell: Cell | None, row_count: int) -> str:
    """ "79.1 ± 0.3 [79.7]"; "(n)" behind it where it is over fewer seeds than the row's others."""
    if cell is None:
        return "-"
    text = table.format_figure(cell.figure)
    text += f" ({cell.draws} draws)" if cell.draws > 1 else ""
    text += f" ({cell.figure.count})" if cell.figure.count != row_count else ""
    return text + (f" [{100 * cell.paper:.1f}]" if cell.paper is not None else "")


def count_seeds(row: Row) -> int:
    return max(cell.figure.count for cell in row.cells.values())


def make_lines(found: Table) -> list[list[str]]:
    """Header and rows, as the formats for readers show them."""
    lines = [["", "seeds", *found.columns]]
    for row in found.rows:
        count = count_seeds(row)
        cells = [format_cell(row.cells.get(column), count) for column in found.columns]
        lines.append([row.name, str(count), *cells])
    return lines


def make_notes(found: Table) -> list[str]:
    """What a reader of the table has to know beside it."""
    cells = [(cell, count_seeds(row)) for row in found.rows for cell in row.cells.values()]
    measure = {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}.get(
        found.measure, "best top-1 accuracy of all looks at the test set"
    )
    notes = [f"{measure} in per cent, mean ± standard deviation over seeds"]
    if any(cell.figure.count != count for cell, count in cells):
        notes.append("(n): over n seeds only")
    if any(cell.draws for cell, _ in cells):
        notes.append("(n draws): one seed, deviation over the draws of its labels")
    if any(cell.paper is not None for cell, _ in cells):
        notes.append("[ ]: the paper's figure")
    return notes + found.notes


def format_text(found: Table) -> str:
    return "\n".join([table.align(make_lines(found)), "", *make_notes(found)]) + "\n"


def format_markdown(found: Table) -> str:
    lines = [[cell.replace("|", "\\|") for cell in line] for line in make_lines(found)]
    notes = [f"- {note}" for note in make_notes(found)]
    return "\n".join([table.align(lines, markdown=True), "", *notes]) + "\n"


def format_latex(found: Table) -> str:
    """A tabular of booktabs, a rule between data sets; the notes are comments above it."""
    head, *rows = [[escape_latex(cell) for cell in line] for line in make_lines(found)]
    notes = ["needs \\usepackage{booktabs}", *make_notes(found)]
    body = []
    for i, row in enumerate(rows):
        if i and found.rows[i].data != found.rows[i - 1].data:
            body.append("\\midrule")
        body.append(" & ".join(row) + " \\\\")
    return "\n".join([
        *(f"% {note}" for note in notes),
        f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        "\\toprule",
        " & ".join(head) + " \\\\",
        "\\midrule",
        *body,
        "\\bottomrule",
        "\\end{tabular}",
    ]) + "\n"  # fmt: skip


_LATEX = str.maketrans({
    **{letter: f"\\{letter}" for letter in "_%&#${}"},
    "\\": r"\textbackslash{}", "|": r"\textbar{}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$", "[": "{[}", "]": "{]}",
})  # fmt: skip


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it; brackets in braces, lest one after \\\\ be taken for its option."""
    return text.translate(_LATEX)


def format_csv(found: Table) -> str:
    """One line a cell: FIELDS. `sd_over` is seeds or draws; seeds are divided by spaces, workdirs by ;."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in found.rows:
        for column in found.columns:
            cell = row.cells.get(column)
            if cell is None:
                continue
            mean, sd, count = cell.figure
            writer.writerow({
                "row": row.name, "method": row.method, "data": row.data, "encoder": row.encoder,
                "stream": row.stream, "protocol": column, "measure": found.measure, "mean": mean,
                "sd": sd, "count": count, "paper": cell.paper,
                "sd_over": "" if sd is None else "draws" if cell.draws else "seeds",
                "seeds": " ".join(map(str, cell.seeds)), "workdirs": ";".join(cell.workdirs),
            })  # fmt: skip
    return stream.getvalue()


FORMATS: dict[str, Callable[[Table], str]] = {
    "text": format_text, "markdown": format_markdown, "latex": format_latex, "csv": format_csv,
}  # fmt: skip
