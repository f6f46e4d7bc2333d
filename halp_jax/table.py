"""One table of the evaluations of many runs, beside the numbers of the paper.

    python -m halp_jax.table runs
    python -m halp_jax.table runs/halp_0 runs/halp_1 --format=markdown --out=results.md
    python -m halp_jax.table runs --measure=best_top1 --format=csv --no-paper

Reads DIR/eval/*.json of every run in or under the folders. Runs that differ only in the seed share a
row: mean ± standard deviation over seeds. Other settings, data sets and splits get rows of their own,
named by what differs (between methods, by the encoder alone). Two runs of one experiment and seed are
refused. The paper's number is in brackets where there is one; rows beside it name the width and whatever
else differs from the paper's. CSV has one line per cell, with shares in [0, 1] as in the files of
`evaluate`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from halp_jax.datasets.atomic_write import atomic_write
from halp_jax.errors import UserError
from halp_jax.evaluation import table
from halp_jax.options import make_parser, run_command
from halp_jax.progress import escape_controls

ENDINGS = {".txt": "text", ".md": "markdown", ".tex": "latex", ".csv": "csv"}
MEASURES = {
    "top1": "top-1 accuracy", "top5": "top-5 accuracy",
    "best_top1": "best top-1 accuracy of all evaluations on the test set",
}  # fmt: skip
FIELDS = (
    "row", "method", "data", "encoder", "stream", "protocol", "measure", "mean", "sd", "count",
    "sd_over", "seeds", "paper", "workdirs",
)  # fmt: skip


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("table", __doc__)
    about = "a run, or a folder that holds runs at any depth"
    parser.add_argument("folders", nargs="+", metavar="DIR", help=about)
    about = "default: what the ending of --out says (.txt, .md, .tex, .csv), else text"
    parser.add_argument("--format", choices=FORMATS, help=about)
    about = "default: top1, of the last epoch; best_top1 is the best of all on the test set"
    parser.add_argument("--measure", default="top1", choices=MEASURES, help=about)
    parser.add_argument("--out", help="file to write or to replace; default: print the table")
    parser.add_argument("--no-paper", action="store_true", help="leave out the paper's numbers")
    args = parser.parse_args(argv)
    args.format = args.format or ENDINGS.get(Path(args.out or "").suffix, "text")
    return args


def make_table(args: argparse.Namespace) -> tuple[pd.DataFrame, list[str]]:
    """Reads and joins; names on stderr what is left out. Raises UserError where nothing is left."""
    runs, empty = table.find_runs(args.folders)
    records, skipped = table.read_results(runs, args.measure)
    for line in skipped:
        print(f"left out {line}", file=sys.stderr)
    if empty:
        print(f"no results in {', '.join(map(str, empty))}", file=sys.stderr)
    if not records:
        raise UserError(
            f"no result of halp_jax.evaluate in {', '.join(args.folders)}; run it on a run there"
        )
    if args.no_paper:
        records = [record | {"paper": None} for record in records]
    cells, notes = table.tabulate(records)
    return cells.assign(measure=args.measure), notes


def arrange(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells as readers see them: a line a row, a column a protocol, in per cent."""
    seeds = cells.groupby("row", sort=False)["count"].max()
    texts = cells.assign(
        text=[format_cell(c, c.count < int(seeds[c.row])) for c in cells.itertuples()]
    )
    wide = texts.pivot(index="row", columns="protocol", values="text").fillna("-")
    columns = cells.sort_values("order", kind="stable").protocol.unique()
    wide = wide.reindex(index=seeds.index, columns=columns)
    wide.insert(0, "seeds", seeds.astype(str))
    return wide.rename_axis(index=None, columns=None)


def format_cell(cell: tuple, fewer: bool) -> str:
    """ "79.1 ± 0.3 [79.7]"; "(n)" behind it where it is over fewer seeds than the row's others."""
    text = f"{100 * cell.mean:.1f}" + (f" ± {100 * cell.sd:.1f}" if cell.sd_over else "")
    text += f" ({cell.draws} draws)" if cell.draws else ""
    text += f" ({cell.count})" if fewer else ""
    return text + (f" [{100 * cell.paper:.1f}]" if pd.notna(cell.paper) else "")


def make_notes(cells: pd.DataFrame, notes: Sequence[str]) -> list[str]:
    """What a reader of the table has to know beside it."""
    fewer = cells["count"] < cells.groupby("row")["count"].transform("max")
    draws = "(n draws): one seed, deviation over the draws of its labels"
    shown = {
        f"{MEASURES[cells.measure[0]]} in per cent, mean ± standard deviation over seeds": True,
        "(n): over n seeds only": fewer.any(),
        draws: cells.draws.any(),
        "[ ]: the paper's number": cells.paper.notna().any(),
    }
    return [note for note, applies in shown.items() if applies] + list(notes)


def format_text(cells: pd.DataFrame, notes: Sequence[str]) -> str:
    return "\n".join([arrange(cells).to_string(), "", *make_notes(cells, notes)]) + "\n"


def format_markdown(cells: pd.DataFrame, notes: Sequence[str]) -> str:
    wide = arrange(cells)
    lines = [("", *wide.columns), ("---", *["---:"] * len(wide.columns)), *wide.itertuples()]
    lines = ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines]
    return "\n".join([*lines, "", *(f"- {note}" for note in make_notes(cells, notes))]) + "\n"


def format_latex(cells: pd.DataFrame, notes: Sequence[str]) -> str:
    """A tabular of booktabs, a rule between data sets; the notes are comments above it."""
    wide, data = arrange(cells), cells.drop_duplicates("row").data.tolist()
    lines = [" & ".join(map(escape_latex, line)) + " \\\\" for line in wide.itertuples()]
    rules = [
        "\\midrule\n" * (i > 0 and data[i] != data[i - 1]) + line for i, line in enumerate(lines)
    ]
    return "\n".join([
        "% needs \\usepackage{booktabs}",
        *(f"% {note}" for note in make_notes(cells, notes)),
        f"\\begin{{tabular}}{{l{'r' * len(wide.columns)}}}",
        "\\toprule",
        " & ".join(["", *map(escape_latex, wide.columns)]) + " \\\\",
        "\\midrule",
        *rules,
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


def format_csv(cells: pd.DataFrame, notes: Sequence[str]) -> str:
    """One line a cell: FIELDS. Seeds are divided by spaces, workdirs by semicolons."""
    return cells[list(FIELDS)].map(_no_formula).to_csv(index=False)


def _no_formula(cell: object) -> object:
    """A name that a spreadsheet would compute, =1+1, behind the quote that makes it text there."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@")) else cell


FORMATS = {
    "text": format_text, "markdown": format_markdown, "latex": format_latex, "csv": format_csv,
}  # fmt: skip


def run(argv: Sequence[str]) -> None:
    """Makes the table, and prints it or writes it."""
    args = parse_args(argv)
    cells, notes = make_table(args)
    text = escape_controls(FORMATS[args.format](cells, notes))
    if not args.out:
        print(text, end="")
        return
    path = Path(args.out).expanduser()
    with atomic_write(path, "choose another --out") as stream:
        stream.write(text.encode("utf-8"))
    print(f"{path}: {cells.row.nunique()} rows, {cells.protocol.nunique()} columns")


def main(argv: Sequence[str] | None = None) -> int:
    return run_command("table", run, argv)


if __name__ == "__main__":
    sys.exit(main())
