"""One table of the evaluations of many runs, beside the figures of the paper.

    python -m halp_jax.table runs
    python -m halp_jax.table runs/halp_0 runs/halp_1 --format=markdown --out=results.md
    python -m halp_jax.table runs --measure=best_top1 --format=csv --no-paper

Takes DIR/eval/*.json of every run in or under the folders. Runs that differ in the seed alone are a row:
mean ± standard deviation over seeds; other settings, data sets and splits are rows of their own,
named by what differs. Two runs of one experiment and seed are refused; give the one to take by its
own path beside the folder that holds both. In brackets stands the paper's figure where there is
one; rows beside it name the width and whatever else is not the paper's.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from halp_jax.datasets.whole_file import open_whole
from halp_jax.errors import UserError
from halp_jax.evaluation import formats, gather, rows

ENDINGS = {".txt": "text", ".md": "markdown", ".tex": "latex", ".csv": "csv"}


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "halp_jax.table", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    about = "a run, or a folder that holds runs at any depth"
    parser.add_argument("folders", nargs="+", metavar="DIR", help=about)
    about = "default: what the ending of --out says (.txt, .md, .tex, .csv), else text"
    parser.add_argument("--format", choices=formats.FORMATS, help=about)
    about = "default: top1, of the last epoch; best_top1 is the best look at the test set"
    parser.add_argument(
        "--measure", default="top1", choices=("top1", "top5", "best_top1"), help=about
    )
    parser.add_argument("--out", help="file to write or to replace; default: print the table")
    parser.add_argument("--no-paper", action="store_true", help="leave out the paper's figures")
    args = parser.parse_args(argv)
    args.format = args.format or ENDINGS.get(Path(args.out or "").suffix, "text")
    return args


def make_table(args: argparse.Namespace) -> rows.Table:
    """Reads and joins; names on stderr what is left out. Raises UserError where nothing is left."""
    runs, empty = gather.find_runs(args.folders)
    entries, skipped = gather.read_entries(runs, args.measure)
    for line in skipped:
        print(f"left out {line}", file=sys.stderr)
    if empty:
        print(f"no results in {', '.join(map(str, empty))}", file=sys.stderr)
    if not entries:
        raise UserError(
            f"no result of halp_jax.evaluate in {', '.join(args.folders)}; run it on a run there"
        )
    return rows.tabulate(entries, args.measure, with_paper=not args.no_paper)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(sys.argv[1:] if argv is None else argv)
    try:
        found = make_table(args)
        text = formats.FORMATS[args.format](found)
        if args.out:
            path = Path(args.out).expanduser()
            with open_whole(path, "choose another --out") as stream:
                stream.write(text.encode("utf-8"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not args.out:
        print(text, end="")
        return 0
    print(f"{path}: {len(found.rows)} rows, {len(found.columns)} columns")
    return 0


if __name__ == "__main__":
    sys.exit(main())
