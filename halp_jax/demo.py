"""The whole workflow on the embedded data set: prepare, pre-train, evaluate, draw. `make demo` runs it.

    python -m halp_jax.demo --workdir=runs/demo [--variant=halp_cmd] [--config.train.epochs=40 ...]
    python -m halp_jax.demo --workdir=runs/mutag --variant=graphs [--source=MUTAG.zip]

It runs the same commands as a user would and shows them; started again, it resumes where it stopped. It
ends with a table and pictures in the workdir: clips.png or graphs.png, positives.png, walk.png and
map.png. The variant graphs is GraphCL, and HaLP on it.
"""

import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from halp_jax import datasets
from halp_jax.errors import UserError
from halp_jax.evaluation.result_files import ENCODERS
from halp_jax.inspect import anchors, graph_plots, maps, page, plots, plots3d
from halp_jax.options import make_parser, run_command
from halp_jax.skeletons import plot
from halp_jax.training import checkpoint, checks

NUM_CLIPS = 1200
NEXT = """
The same on NTU RGB+D 60 and eight GPUs (ask its authors for the skeletons):
    python -m halp_jax.prepare --format=ntu --source=nturgb+d_skeletons --out=data/ntu60 \\
        --normalize=released --bodies=slot
    python -m halp_jax.train --config=configs/halp.py:ntu60_xsub --workdir=runs/halp \\
        --config.data.dir=data/ntu60"""
NEXT_GRAPHS = """
One seed differs from another by a point or more: benchmarks/graph_table.py has many. The same on other
graphs (archives: chrsmrrs.github.io/datasets):
    python -m halp_jax.demo --workdir=runs/mutag --variant=graphs --source=MUTAG.zip"""


def type_out(*arguments: str) -> None:
    print("\n$ python " + shlex.join(arguments), flush=True)


def type_command(name: str, *arguments: str) -> None:
    """Runs a command in this process, as its command line would; ends the demo where it fails."""
    type_out("-m", f"halp_jax.{name}", *arguments)
    if status := importlib.import_module(f"halp_jax.{name}").main(list(arguments)):
        sys.exit(status)


def plot_pictures(workdir: Path, part: str) -> list[Path]:
    """Twelve clips or graphs, positives of six, the walk of the first, and a map of all embeddings."""
    run = anchors.open_run(workdir, part=part)
    chosen = anchors.choose_clips(run, 12)
    if run.unit == "graph":
        samples = graph_plots.plot_graphs(run.dataset, run.clips[chosen].tolist())
    else:
        clips, names = anchors.read_clips(run, chosen), [run.names[c] for c in chosen]
        rate = float(run.dataset.metadata.get("fps") or 0)
        samples = plot.plot_grid(clips, names, run.dataset.layout, rate=rate)
    scene = plots3d.project_sphere(run, chosen[:6], "geodesic")  # twelve would be a tangle
    figures = {
        f"{run.unit}s": samples,
        "positives": plots3d.plot_scene_flat(scene),
        "walk": plots.plot_walk(run, anchors.walk(run, chosen[0], solver="geodesic")),
        "map": maps.plot_map(run),
    }
    return [page.save(figure, workdir / f"{name}.png") for name, figure in figures.items()]


def train_pair(workdir: Path, data: str, overrides: Sequence[str]) -> None:
    """MoCo, and HaLP for the last third of the same epochs, from MoCo's state at its start."""
    moco = workdir / "moco"
    options = ("--config=configs/demo.py:moco", f"--workdir={moco}", data, *overrides)
    type_command("train", *options)
    config, info = checkpoint.load_config(moco), checkpoint.load_info(moco)
    start = config.halp.start_epoch * checks.count_steps(config, info["clips"])[1]
    kept = moco / "checkpoints" / str(start)
    options = ("--config=configs/demo.py", f"--workdir={workdir}", data, *overrides)
    # Where epochs or saves were changed HaLP begins by itself, or not at all.
    if kept.exists() and config.halp.start_epoch < config.train.epochs:
        options += (f"--config.init_from={kept}",)
    type_command("train", *options)


def run_clips(workdir: Path, variant: str, overrides: Sequence[str]) -> None:
    """Prepares the embedded clips, trains, and evaluates."""
    found = importlib.util.find_spec("tensorflow_datasets")
    clips = workdir / ("data" if found else "data.npz")
    if not datasets.is_dataset(clips):
        options = ("--format=synthetic", f"--clips={NUM_CLIPS}", f"--out={clips}")
        command = ("-m", "halp_jax.prepare", *options)
        type_out(*command)
        # A process of its own: its workers start from it, and need not import what the demo does.
        if status := subprocess.run([sys.executable, *command]).returncode:
            sys.exit(status)
    where, data = f"--workdir={workdir}", f"--config.data.dir={clips}"
    if variant == "halp":
        train_pair(workdir, data, overrides)
    else:
        type_command("train", f"--config=configs/demo.py:{variant}", where, data, *overrides)
    for protocol, fused in (("knn", "concat"), ("linear", "ensemble")):
        option = f"--protocol={protocol}"
        if variant == "halp":
            joint = (f"--workdir={workdir / 'raw_joint'}", "--config=configs/demo.py:moco", data)
            joint += ("--config.streams=('joint',)", *overrides)
            type_command("evaluate", *joint, option, "--encoder=raw")
            type_command("evaluate", f"--workdir={workdir / 'moco'}", option)
        for encoder in ENCODERS:
            options = [where, option, f"--encoder={encoder}"]
            if variant == "halp_cmd" and encoder == "trained":
                options.append(f"--stream=joint,motion,bone,{fused}")
            type_command("evaluate", *options)


def run_graphs(workdir: Path, source: str, overrides: Sequence[str]) -> None:
    """Prepares graphs, trains GraphCL and GraphCL+HaLP from one start, and evaluates in folds."""
    data = workdir / (Path(source).stem if source else "molecules")
    if not datasets.is_dataset(data):
        kind = ("--format=tu", f"--source={source}") if source else ("--format=synthetic_graphs",)
        type_command("prepare", *kind, f"--out={data}")
    graphcl = workdir / "graphcl"
    for folder, variant in ((graphcl, "own"), (workdir, "own+halp")):
        options = (f"--config=configs/graphcl.py:{variant}", f"--workdir={folder}")
        type_command("train", *options, f"--config.data.dir={data}", *overrides)
    for protocol in ("knn", "svm"):
        for folder, encoder in ((graphcl, "trained"), *((workdir, each) for each in ENCODERS)):
            options = (f"--workdir={folder}", f"--protocol={protocol}", f"--encoder={encoder}")
            type_command("evaluate", *options)


def demo(argv: Sequence[str]) -> None:
    """Types the commands one after the other."""
    parser = make_parser("demo", __doc__, epilog="--config.field=value changes a setting")
    parser.add_argument("--workdir", type=Path, default=Path("runs/demo"))
    parser.add_argument("--variant", default="halp", choices=("halp", "halp_cmd", "graphs"))
    about = "graphs: an archive or folder of the TU collection instead of the embedded graphs"
    parser.add_argument("--source", default="", help=about)
    args, overrides = parser.parse_known_args(argv)
    if unknown := [each for each in overrides if not each.startswith("--config.")]:
        raise UserError(f"unknown argument {unknown[0]!r}; --help lists the options")
    workdir = args.workdir
    if args.variant == "graphs":
        run_graphs(workdir, args.source, overrides)
        part, accuracy, after = "train", "Accuracy in ten folds", NEXT_GRAPHS
    elif args.source:
        raise UserError("--source is of --variant=graphs; leave it out")
    else:
        run_clips(workdir, args.variant, overrides)
        part, accuracy, after = "test", "Accuracy on unseen subjects", NEXT
    paths = plot_pictures(workdir, part)
    print(f"\n{accuracy}, one seed:")
    type_command("table", str(workdir), f"--out={workdir / 'table.md'}")
    type_command("table", str(workdir))
    print("\nPictures: " + ", ".join(map(str, paths)))
    print(after)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command("demo", demo, argv, stopped="the same command resumes", sigterm=False)


if __name__ == "__main__":
    sys.exit(main())
