"""Turns a data set's original files into one folder that training and evaluation read.

    python -m halp_jax.prepare --format=ntu --source=nturgb+d_skeletons --out=data/ntu60 --classes=60 \\
        --normalize=released --bodies=slot
    python -m halp_jax.prepare --format=agcn --source=NTU-RGB-D-60-AGCN/xsub --out=data/ntu60_agcn
    python -m halp_jax.prepare --format=ctrgcn --source=NTU60_CS.npz --out=data/ntu60_cs
    python -m halp_jax.prepare --format=folder --source=my_clips --layout=mine.json --out=data/mine
    python -m halp_jax.prepare --format=synthetic --out=data/demo --clips=1200
    python -m halp_jax.prepare --format=tu --source=MUTAG.zip --out=data/mutag
    python -m halp_jax.prepare --format=pyskl --source=pku.pkl --out=data/pku20 \\
        --as-layout=kinect20 --max-bodies=2

Without --format the format is recognised by the names and first bytes of the source; docs/formats.md and
the first lines of halp_jax/datasets/FORMAT.py describe each. --layout is one of
halp_jax/skeletons/layouts_known.py or a .json file of your own (see halp_jax/skeletons/layout.py);
where it is guessed from the number of joints, clips that clearly do not fit are refused. Six clips are
drawn in clips.png beside the data, any others by halp_jax.export. Clips are centred and turned upright
(halp_jax/skeletons/normalize.py); --normalize=released, as in the first line, is for the paper's figures
and the authors' checkpoints. Coordinates that are already normalised, as in agcn, are kept as they are
unless --normalize is given. A damaged file is named, counted and left out. The folder can be opened only
when it is complete; --out=NAME.npz writes a packed file instead, which needs no TensorFlow.

Frames at the end in which nobody is seen are dropped. Joints that are NaN are filled in across gaps of
--max-gap frames or fewer, and otherwise count as missing. Training keeps the first data.max_frames
frames of a clip: for motion capture at hundreds of frames a second --resample=30 keeps the whole
movement. --fps is the rate of files that do not state theirs. All of these are counted.

Data sets of different skeletons share an encoder when both are prepared with the same --as-layout:
joints are matched by meaning (see halp_jax/skeletons/common.py), and normalisation comes afterwards.
--max-bodies is the number of bodies of a clip (20 joints of two bodies are the layout kinect20x2); of
more bodies those that move most are kept, fewer are padded with zeros.

A cluster can read millions of clips: --beam=FlinkRunner --beam-options=--flink_master=HOST:8081 (or
SparkRunner, DataflowRunner; DirectRunner is this machine; several options are separated by commas). It
needs requirements-beam.txt, and a --source and --out that all workers see. If every process of a job
runs the command (see launch/README.md), process 0 prepares and the others wait.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import ml_collections

from halp_jax import datasets
from halp_jax.datasets import graphs, ntu, open_source
from halp_jax.datasets.builder import prepare_source
from halp_jax.datasets.clip import MAX_RATE
from halp_jax.datasets.prepared import Dataset
from halp_jax.datasets.preview import PICTURE
from halp_jax.datasets.read_pool import NORMALIZERS, Repair, count_cores
from halp_jax.errors import UserError
from halp_jax.options import make_parser, run_command
from halp_jax.skeletons.common import tell_conversion
from halp_jax.skeletons.layout import MAX_BODIES, find_layout, with_bodies
from halp_jax.skeletons.repair import MAX_GAP
from halp_jax.training import cluster

READER_OPTIONS = (
    "missing", "classes", "bodies", "clips", "seed", "layout", "columns", "keypoints", "picture",
    "attributes",
)  # fmt: skip
OF_CLIPS = (
    "normalize", "as_layout", "max_bodies", "fps", "resample", "strict", "beam", "beam_options",
)  # fmt: skip


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("prepare", __doc__)
    add = parser.add_argument
    about = "what the files are; told from their names and first bytes if not given"
    add("--format", choices=sorted(datasets.READERS | datasets.GRAPH_READERS), help=about)
    add("--source", help="folder or file to read")
    add("--out", required=True, help="folder to write, or a file NAME.npz")
    workers = count_cores()
    add("--workers", type=_between(int, 0), default=workers, help="reader processes")
    about = (
        "upright: centred, one rotation a clip, spine on z, right shoulder ahead on x; view: the "
        "older two rotations of 2s-AGCN; released: the same with the released handling of gaps, as "
        "the paper's rows had it; none: as it is; default: upright, and none where the files are "
        "normalised already"
    )
    add("--normalize", choices=list(NORMALIZERS), help=about)
    add("--beam", default="", help="runner of Apache Beam that does the work; see above")
    add("--beam-options", default="", help="options of the runner, separated by commas")
    add("--strict", action="store_true", help="stop at the first damaged clip")
    about = "replace a data set that is there, at the very end"
    add("--overwrite", action="store_true", help=about)
    about = "frames a second of files that do not tell theirs"
    add("--fps", type=_between(float, 0, MAX_RATE), default=0.0, help=about)
    about = "frames a second to take all clips to, by interpolation; 0: each keeps its own"
    add("--resample", type=_between(float, 0, MAX_RATE), default=0.0, help=about)
    about = "joints that are NaN for no more frames are filled in, others are missing"
    add("--max-gap", type=_between(int, 0), default=MAX_GAP, help=about)
    about = "ntu: more lists of damaged samples, separated by commas; none: not the official ones"
    add("--missing", help=about)
    add("--classes", choices=["60", "120"], help="ntu: which part; found out if not given")
    about = "ntu: without ghosts, by default; by tracking id; by slot, as HaLP's code; the first two, as AimCLR's"
    add("--bodies", choices=ntu.BODIES, help=about)
    add("--clips", type=_between(int, 1), help="synthetic: how many clips")
    about = "synthetic, synthetic_graphs: another seed is another data set; folder: another split"
    add("--seed", type=_between(int, 0), help=about)
    add("--layout", help="the skeleton of the files, a name or a .json file; mostly found out")
    add("--columns", help="text: what is in which column, a known set or a .json file")
    add("--keypoints", help="pyskl: folder of key points that lie in files of their own")
    about = "yolo, mediapipe: WIDTHxHEIGHT of the videos, whose shares the coordinates are"
    add("--picture", help=about)
    about = "tu: the encoder sees the attributes of nodes, too"
    add("--attributes", action="store_true", default=None, help=about)
    add("--as-layout", help="skeleton to take the clips to, a name or a .json file")
    about = "bodies of a clip; by default those of the layout"
    add("--max-bodies", type=_between(int, 1, MAX_BODIES), help=about)
    return parser.parse_args(argv)


def _between(kind: type, low: int, high: float | int = float("inf")) -> Any:
    """The type of an option that is a number of this range."""

    def number(text: str) -> int | float:
        if not low <= (value := kind(text)) <= high:
            raise argparse.ArgumentTypeError(f"{text}; give {low} to {high:g}")
        return value

    number.__name__ = kind.__name__
    return number


def run(argv: Sequence[str]) -> None:
    """Prepares, in the first process of several, and says what came of it."""
    args = parse_args(argv)
    cluster.join(ml_collections.ConfigDict())
    dataset = cluster.leave_to_first(lambda: prepare(args))
    if dataset is not None:
        print(summary(dataset))


def prepare(args: argparse.Namespace) -> Dataset:
    """What the options ask for."""
    if args.format is None:
        if not args.source:
            raise UserError("give --source=PATH, or --format=synthetic, which needs none")
        args.format = datasets.guess_format(args.source)
        print(f"{args.source}: read as --format={args.format}", file=sys.stderr)
    given = reader_options(args)
    if args.source and args.format in datasets.EMBEDDED:
        raise UserError(f"--source means nothing to --format={args.format}; leave it out")
    if args.beam_options and not args.beam:
        raise UserError("--beam-options is of --beam; give both or neither")
    if args.format in datasets.GRAPH_READERS:
        for name in OF_CLIPS:
            if getattr(args, name):
                raise UserError(f"--{name.replace('_', '-')} is of clips; leave it out")
        if not args.source and args.format not in datasets.EMBEDDED:
            raise UserError(f"format {args.format} needs its files; give --source=PATH")
        found = datasets.GRAPH_READERS[args.format](args.source or "", **given)
        return datasets.open_dataset(graphs.save(found, args.out, overwrite=args.overwrite))
    layout = find_layout(args.as_layout, "--as-layout") if args.as_layout else None
    source = open_source(args.format, args.source, **given)
    if args.max_bodies is not None:
        layout = with_bodies(layout or source.layout, args.max_bodies)
    return prepare_source(
        source,
        args.out,
        workers=args.workers,
        normalize=args.normalize,
        as_layout=layout,
        strict=args.strict,
        overwrite=args.overwrite,
        repair=Repair(args.max_gap, args.fps, args.resample),
        beam_runner=args.beam,
        beam_options=[option for option in args.beam_options.split(",") if option],
    )


def reader_options(args: argparse.Namespace) -> dict[str, object]:
    """The options that were given, if the format's reader takes them."""
    given = {name: getattr(args, name) for name in READER_OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    datasets.check_options(args.format, given)
    return given


def summary(dataset: Dataset) -> str:
    """What was written and what was not, in a few lines."""
    splits = "; ".join(
        f"{benchmark} " + ", ".join(f"{len(chosen)} {part}" for part, chosen in parts.items())
        for benchmark, parts in sorted(dataset.splits.items())
    )
    lines = [
        f"{dataset.path}: {len(dataset)} {dataset.unit} of {dataset.num_classes} classes,"
        f" {dataset.layout.name}; splits: {splits or 'none'}"
    ]
    if dataset.labels.max() < 1:
        found = "one class" if dataset.num_classes else "no labels"
        lines.append(
            f"{found}: enough to train on; evaluation wants more (GUIDE.md, Your own clips)"
        )
    if converted := dataset.metadata.get("converted_from"):
        lines.append(tell_conversion(converted))
    notes = dataset.metadata["notes"]
    lines += [f"{name}: {value}" for name, value in notes.items() if value]
    if (picture := dataset.path / PICTURE).exists():
        lines.append(f"look at some of them: {picture}")
    damaged = dataset.metadata["damaged"]
    if damaged:
        lines.append(f"{len(damaged)} damaged, left out, named above and in its metadata")
    for benchmark, count in dataset.metadata["absent_from_splits"].items():
        lines.append(f"{benchmark}: {count} clips of the official split are not there")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command("prepare", run, argv, stopped="nothing was written to --out")


if __name__ == "__main__":
    sys.exit(main())
