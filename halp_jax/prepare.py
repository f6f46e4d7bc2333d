"""Turns the files of a data set's authors into one folder that training and evaluation read.

    python -m halp_jax.prepare --format=ntu --source=nturgb+d_skeletons --out=data/ntu60 --classes=60 \\
        --normalize=released --bodies=slot
    python -m halp_jax.prepare --format=agcn --source=NTU-RGB-D-60-AGCN/xsub --out=data/ntu60_agcn
    python -m halp_jax.prepare --format=ctrgcn --source=NTU60_CS.npz --out=data/ntu60_cs
    python -m halp_jax.prepare --format=folder --source=my_clips --layout=mine.json --out=data/mine
    python -m halp_jax.prepare --format=synthetic --out=data/demo --clips=1200
    python -m halp_jax.prepare --format=tu --source=MUTAG.zip --out=data/mutag
    python -m halp_jax.prepare --format=pyskl --source=pku.pkl --out=data/pku20 \\
        --as_layout=kinect20 --max_bodies=2

The format is told from the names and first bytes of the source if it is not given; docs/formats.md and
the first lines of halp_jax/datasets/FORMAT.py say what each holds. --layout is one of
halp_jax/skeletons/layouts_known.py or a .json file of your own (see halp_jax/skeletons/layout_file.py);
where the number of joints tells instead, clips that are clearly no such people are refused. Six clips are
drawn in clips.png beside the data, any others by halp_jax.draw. Clips are centred and stood upright
(halp_jax/skeletons/normalize.py); --normalize=released, in the first line, is what the paper's figures
and the authors' checkpoints are of. Files that hold normalised coordinates, as agcn does, are kept as
they are unless --normalize is given. A damaged file is named, counted and left out. The folder appears
when it is whole, not before.

Frames at the end in which nobody is seen are left out. Joints that are NaN are filled in where they
are lost for --max_gap frames or fewer, and missing elsewhere. Training keeps the first data.max_frames
frames of a clip: of motion capture at hundreds of frames a second --resample=30 keeps the whole
movement. --fps is the rate of files that do not tell theirs. Each of these is counted when it is done.

Data sets of different skeletons share an encoder when both are prepared with one --as_layout: joints
go by meaning (see halp_jax/skeletons/common.py), and normalisation comes after. --max_bodies is the
number of bodies of a clip, 20 joints of two bodies being the layout kinect20x2; of more bodies those
that move most are kept, fewer are filled up with zeros.

Millions of clips are read by a cluster: --beam=FlinkRunner --beam_options=--flink_master=HOST:8081 (or
SparkRunner, DataflowRunner; DirectRunner is this machine; several options are separated by commas).
It needs requirements-beam.txt, and a --source and --out that all workers see. Typed for every process
of a job (see launch/README.md), process 0 prepares and the others wait for it.
"""

import os
import signal
import sys

import ml_collections
from absl import app, flags

from halp_jax.datasets import (
    GRAPH_READERS,
    READERS,
    check_options,
    graphs,
    guess_format,
    ntu,
    open_dataset,
    open_source,
)
from halp_jax.datasets.builder import prepare_source
from halp_jax.datasets.clip import MAX_RATE
from halp_jax.datasets.looks import PICTURE
from halp_jax.datasets.pipeline import quiet_tensorflow
from halp_jax.datasets.prepared import METADATA, Dataset
from halp_jax.datasets.reading import NORMALIZERS, Repair
from halp_jax.errors import UserError
from halp_jax.skeletons.common import tell_conversion
from halp_jax.skeletons.layout import MAX_BODIES, with_bodies
from halp_jax.skeletons.layout_file import find_layout
from halp_jax.skeletons.repair import MAX_GAP
from halp_jax.training import cluster

FLAGS = flags.FLAGS
READER_OPTIONS = (
    "missing", "classes", "bodies", "clips", "seed", "layout", "columns", "keypoints",
    "attributes",
)  # fmt: skip


def define_flags() -> None:
    """The command's flags; not defined on import, so that they meet no other program's."""
    about = "What the files are; told from their names and first bytes if not given."
    flags.DEFINE_enum("format", None, sorted(READERS | GRAPH_READERS), about)
    flags.DEFINE_string("source", None, "Folder or file to read.")
    flags.DEFINE_string("out", None, "Folder to write.", required=True)
    flags.DEFINE_integer("workers", len(os.sched_getaffinity(0)), "Reader processes.", 0)
    flags.DEFINE_enum(
        "normalize",
        None,
        list(NORMALIZERS),
        "upright: centred, one rotation a clip, spine on z, right shoulder ahead on x; view: the"
        " older two rotations of 2s-AGCN; released: the same with the released handling of gaps, as"
        " the paper's rows had it; none: as it is. By default upright, and none where the files are"
        " normalised already.",
    )
    flags.DEFINE_string("beam", "", "Runner of Apache Beam that does the work; see above.")
    flags.DEFINE_string("beam_options", "", "What the runner is told, separated by commas.")
    flags.DEFINE_bool("strict", False, "Stop at the first damaged clip.")
    flags.DEFINE_bool("overwrite", False, "Replace a data set that is there, at the very end.")
    about = "Frames a second of files that do not tell theirs."
    flags.DEFINE_float("fps", 0.0, about, 0, MAX_RATE)
    about = "Frames a second to take all clips to, by interpolation; 0: each keeps its own."
    flags.DEFINE_float("resample", 0.0, about, 0, MAX_RATE)
    about = "Joints that are NaN for no more frames are filled in, others are missing."
    flags.DEFINE_integer("max_gap", MAX_GAP, about, 0)
    about = "ntu: more lists of damaged samples, separated by commas; none: not the official ones."
    flags.DEFINE_string("missing", None, about)
    flags.DEFINE_enum("classes", None, ["60", "120"], "ntu: which part; found out if not given.")
    about = "ntu: without ghosts, by default; by tracking id; by slot, as the released code."
    flags.DEFINE_enum("bodies", None, ntu.BODIES, about)
    flags.DEFINE_integer("clips", None, "synthetic: how many clips.", 1)
    flags.DEFINE_integer(
        "seed", None, "synthetic: another seed is another data set; folder: another split.", 0
    )
    flags.DEFINE_string(
        "layout", None, "The skeleton of the files, a name or a .json file; mostly found out."
    )
    about = "text: what is in which column, a known set or a .json file."
    flags.DEFINE_string("columns", None, about)
    flags.DEFINE_string(
        "keypoints", None, "pyskl: folder of key points that lie in files of their own."
    )
    about = "tu: the encoder sees the attributes of nodes, too."
    flags.DEFINE_bool("attributes", None, about)
    flags.DEFINE_string("as_layout", None, "Skeleton to take the clips to, a name or a .json file.")
    about = "Bodies of a clip; by default those of the layout."
    flags.DEFINE_integer("max_bodies", None, about, 1, MAX_BODIES)


def main(argv: list[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop is a Ctrl-C
    quiet_tensorflow()
    try:
        if argv[1:]:
            raise UserError(f"{argv[1]!r} is no option; write --name=value")
        cluster.join(ml_collections.ConfigDict())
        dataset = cluster.leave_to_first(prepare)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return cluster.leave(error)
    except KeyboardInterrupt as error:
        print(f"prepare: stopped; nothing was written to {FLAGS.out}", file=sys.stderr)
        return cluster.leave(error, 130)
    if dataset is not None:
        print(summary(dataset))
    return 0


def prepare() -> Dataset:
    """What the flags ask for."""
    if find_format() in GRAPH_READERS:
        if not FLAGS.source:
            raise UserError(f"format {FLAGS.format} needs its files; give --source=PATH")
        dataset = GRAPH_READERS[FLAGS.format](FLAGS.source, **reader_options())
        return open_dataset(graphs.save(dataset, FLAGS.out, overwrite=FLAGS.overwrite))
    layout = find_layout(FLAGS.as_layout, "--as_layout") if FLAGS.as_layout else None
    source = open_source(FLAGS.format, FLAGS.source, **reader_options())
    if FLAGS.max_bodies is not None:
        layout = with_bodies(layout or source.layout, FLAGS.max_bodies)
    return prepare_source(
        source,
        FLAGS.out,
        workers=FLAGS.workers,
        normalize=FLAGS.normalize,
        as_layout=layout,
        strict=FLAGS.strict,
        overwrite=FLAGS.overwrite,
        repair=Repair(FLAGS.max_gap, FLAGS.fps, FLAGS.resample),
        beam_runner=FLAGS.beam,
        beam_options=[option for option in FLAGS.beam_options.split(",") if option],
    )


def find_format() -> str:
    """The format that was given, or that the source tells, which is then said."""
    if FLAGS.format is None:
        if not FLAGS.source:
            raise UserError("give --source=PATH, or --format=synthetic, which needs none")
        FLAGS.format = guess_format(FLAGS.source)
        print(f"{FLAGS.source}: read as --format={FLAGS.format}", file=sys.stderr)
    return FLAGS.format


def reader_options() -> dict[str, object]:
    """The options that were given, if the format's reader takes them."""
    given = {name: FLAGS[name].value for name in READER_OPTIONS if FLAGS[name].value is not None}
    check_options(FLAGS.format, given)
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
    if converted := dataset.metadata.get("converted_from"):
        lines.append(tell_conversion(converted))
    notes = dataset.metadata["notes"]
    lines += [f"{name}: {value}" for name, value in notes.items() if value]
    if (picture := dataset.path / PICTURE).exists():
        lines.append(f"look at some of them: {picture}")
    damaged = dataset.metadata["damaged"]
    if damaged:
        lines.append(f"{len(damaged)} damaged, left out, named above and in {METADATA}")
    for benchmark, count in dataset.metadata["absent_from_splits"].items():
        lines.append(f"{benchmark}: {count} clips of the official split are not there")
    return "\n".join(lines)


if __name__ == "__main__":
    define_flags()
    app.run(main)
