"""The main job on the embedded data set: prepare, pre-train, evaluate, draw. `make demo` runs it.

    python -m halp_jax.demo --workdir=runs/demo [--variant=halp_cmd] [--config.train.epochs=40 ...]

It types the commands that a user types (shown as it goes), so started again it resumes where
it stopped. Ends with a table, `clips.png` and `positives.png` in the workdir.
"""

import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from halp_jax import datasets, evaluate, table, train
from halp_jax.core import hallucinate
from halp_jax.datasets import pipeline
from halp_jax.errors import UserError
from halp_jax.evaluation import features
from halp_jax.evaluation.result_files import ENCODERS
from halp_jax.inspect.anchors import find_anchors
from halp_jax.options import make_parser, run_command
from halp_jax.skeletons import augment, plot, plot_sphere
from halp_jax.training import checkpoint

NUM_CLIPS = 1200
NEXT = """
The same on NTU RGB+D 60 and eight GPUs (ask its authors for the skeletons):
    python -m halp_jax.prepare --format=ntu --source=nturgb+d_skeletons --out=data/ntu60 \\
        --normalize=released --bodies=slot
    python -m halp_jax.train --config=configs/halp.py:ntu60_xsub --workdir=runs/halp \\
        --config.data.dir=data/ntu60"""


def prepare_data(out: Path) -> None:
    """The embedded data set, once."""
    if datasets.is_dataset(out):
        return
    command = ["-m", "halp_jax.prepare", "--format=synthetic", f"--clips={NUM_CLIPS}"]
    type_out(*command, f"--out={out}")
    # A process of its own: prepare reads flags and starts workers of its own.
    subprocess.run([sys.executable, *command, f"--out={out}"], check=True)


def type_out(*arguments: str) -> None:
    print("\n$ python " + shlex.join(arguments), flush=True)


def type_command(module, name: str, *arguments: str) -> None:
    """Runs a command in this process, as its command line would; ends the demo where it fails."""
    type_out("-m", f"halp_jax.{name}", *arguments)
    status = module.main(list(arguments))
    if status:
        sys.exit(status)


def plot_pictures(workdir: Path) -> list[Path]:
    """clips.png: some test clips. positives.png, walk.png: what HaLP hallucinates from them."""
    config = checkpoint.load_config(workdir)
    dataset = datasets.open_dataset(config.data.dir)
    state, _ = checkpoint.restore_state(workdir)
    test = dataset.indices(config.data.split, "test")
    by_class = [test[dataset.labels[test] == label] for label in range(dataset.num_classes)]
    chosen = np.array([group[0] for group in by_class if len(group)][:12], np.int32)
    batch = next(
        pipeline.eval_batches(
            dataset, chosen, batch_size=len(chosen), max_frames=config.data.max_frames
        )
    )
    clips = [f[:n] for f, n in zip(batch["frames"], batch["length"], strict=True)]
    names = [dataset.class_names[label] for label in batch["label"]]
    paths = [workdir / name for name in ("clips.png", "positives.png", "walk.png")]
    rate = float(dataset.metadata.get("fps") or 0)
    plot.save_figure(plot.plot_grid(clips, names, dataset.layout, rate=rate), paths[0])

    views = jax.vmap(lambda f, n: augment.centre_crop(f, n, 0.95, config.views.num_frames))(
        batch["frames"], batch["length"]
    )
    embed = features.make_embedding("trained", config, dataset.layout, points=True)
    anchors = embed(find_anchors(state), views)[:, -config.encoder.dim :]
    prototypes, h = state.extra["prototypes"][0], config.halp
    s, c = anchors @ prototypes.T, prototypes @ prototypes.T
    keys = jax.random.split(jax.random.key(config.seed), len(anchors))

    def one(key, s):
        return hallucinate.hallucinate(
            key, s, s, c, num_positives=8, solver="geodesic", draw=h.draw, lam=h.lam
        )

    r, z = jax.vmap(one)(keys, s)
    figure = plot_sphere.plot_sphere(
        *map(np.asarray, (anchors, prototypes)),
        *map(np.asarray, (hallucinate.materialize(z, anchors, prototypes), z.kept, z.selected)),
        title="hallucinated positives of twelve test clips",
    )
    plot.save_figure(figure, paths[1])
    farthest = int(jnp.argmax(r.t_star[0] * (r.chance[0] > 0)))
    t_star = float(r.t_star[0, farthest])
    low, high = hallucinate.sample_range(h.draw, h.lam)
    figure = plot_sphere.plot_great_circle(
        np.asarray(anchors[0]),
        np.asarray(prototypes),
        farthest,
        t_star,
        (low * t_star, high * t_star),
        title=f"the walk of one clip ({names[0]})",
    )
    plot.save_figure(figure, paths[2])
    return paths


def train_pair(workdir: Path, data: str, overrides: Sequence[str]) -> None:
    """MoCo, and HaLP for the last third of the same epochs, from MoCo's state at its start."""
    where = f"--workdir={workdir / 'moco'}"
    type_command(train, "train", "--config=configs/demo.py:moco", where, data, *overrides)
    config, info = checkpoint.load_config(workdir / "moco"), checkpoint.load_info(workdir / "moco")
    start = config.halp.start_epoch * info["steps_per_epoch"]
    kept = workdir / "moco" / "checkpoints" / str(start)
    options = (f"--workdir={workdir}", data, *overrides)
    if kept.exists():  # not where epochs or saves were changed: HaLP then begins by itself
        options += (f"--config.init_from={kept}",)
    type_command(train, "train", "--config=configs/demo.py", *options)


def demo(argv: Sequence[str]) -> None:
    """Types the commands one after the other."""
    parser = make_parser("demo", __doc__, epilog="--config.field=value changes a setting")
    parser.add_argument("--workdir", type=Path, default=Path("runs/demo"))
    parser.add_argument("--variant", default="halp", choices=("halp", "halp_cmd"))
    args, overrides = parser.parse_known_args(argv)
    if unknown := [each for each in overrides if not each.startswith("--config.")]:
        raise UserError(f"unknown argument {unknown[0]!r}; --help lists the options")
    workdir, variant = args.workdir, args.variant
    found = importlib.util.find_spec("tensorflow_datasets")
    clips = workdir / ("data" if found else "data.npz")
    prepare_data(clips)
    where = f"--workdir={workdir}"
    data = f"--config.data.dir={clips}"
    if variant == "halp":
        train_pair(workdir, data, overrides)
    else:
        config = f"--config=configs/demo.py:{variant}"
        type_command(train, "train", config, where, data, *overrides)
    fused = {"knn": "joint,motion,bone,concat", "linear": "joint,motion,bone,ensemble"}
    for protocol in ("knn", "linear"):
        protocol_option = f"--protocol={protocol}"
        if variant == "halp":
            joint = (f"--workdir={workdir / 'raw_joint'}", "--config=configs/demo.py:moco", data)
            joint += ("--config.streams=('joint',)", *overrides)
            type_command(evaluate, "evaluate", *joint, protocol_option, "--encoder=raw")
            moco = f"--workdir={workdir / 'moco'}"
            type_command(evaluate, "evaluate", moco, protocol_option)
        for encoder in ENCODERS:
            options = [where, protocol_option, f"--encoder={encoder}"]
            if variant == "halp_cmd" and encoder == "trained":
                options.append(f"--stream={fused[protocol]}")
            type_command(evaluate, "evaluate", *options)
    paths = plot_pictures(workdir)
    print("\nAccuracy on unseen subjects:")
    type_command(table, "table", str(workdir), f"--out={workdir / 'table.md'}")
    type_command(table, "table", str(workdir))
    print("\nPictures: " + ", ".join(map(str, paths)))
    print(NEXT)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command("demo", demo, argv, stopped="the same command resumes", sigterm=False)


if __name__ == "__main__":
    sys.exit(main())
