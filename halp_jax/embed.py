"""Embeddings of your own clips by a trained encoder, and their nearest neighbours among its data.

    python -m halp_jax.embed --workdir=runs/halp --input clip.npy S001C001P001R001A023.skeleton
    python -m halp_jax.embed --workdir=runs/halp --input=data/mine --out=mine.npz --neighbours=0
    python -m halp_jax.embed --workdir=runs/halp --input=clip.npy --classifier=finetune
    python -m halp_jax.embed --workdir=runs/halp --input walk.bvh openpose_frames/

An input is a file or folder of any format that `prepare` reads (recognised, or --format for all inputs),
or a data set that `prepare` or `pack` wrote. A .npy array, [time, bodies, joints, 3] or [time, joints,
3], has the encoder's joints unless --layout says otherwise; clips of another skeleton are converted to
the encoder's, joint by joint. Clips are normalised like those of the run's training, or with
--normalize=none taken as they are; data sets must be normalised alike already.

The .npz holds names [clips], features [clips, features] of the last layer and embeddings [clips, dim]
(points on the sphere of the contrastive loss). With neighbours it adds neighbour_names,
neighbour_classes and similarities [clips, neighbours], by the cosine of features. With a classifier that
`evaluate --protocol=linear|finetune|transfer` left in the workdir (--classifier=linear, or the name of
another of its files, such as linear_1a2b3c) it adds scores [clips, classes] (probabilities) and
class_names. Of several streams --stream takes one (by default the first), their mean or concat; ensemble
needs a classifier of that kind and keeps the features of concat. --stream, --join, --step and
--config.field=value are those of `evaluate`.
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from jaxtyping import Float, Int

from halp_jax import datasets, evaluate
from halp_jax.datasets import pipeline
from halp_jax.datasets.atomic_write import atomic_write
from halp_jax.datasets.clip import Clip
from halp_jax.datasets.read_pool import NORMALIZERS, Reading, read_items
from halp_jax.errors import UserError
from halp_jax.evaluation import classifier, features, knn, load, streams
from halp_jax.options import make_parser, run_command
from halp_jax.skeletons.layout import Layout, restore_layout
from halp_jax.training import checkpoint, normalization

READER_OPTIONS = {
    "layout": "their skeleton, a name or a .json file",
    "columns": "what stands in the columns of text files, see `prepare`",
    "keypoints": "folder of key points that lie in files of their own, see `prepare`",
    "picture": "WIDTHxHEIGHT of the videos of YOLO's or MediaPipe's points, see `prepare`",
}


def parse_args(argv: Sequence[str]) -> tuple[argparse.Namespace, ml_collections.ConfigDict]:
    """The command's options with those of `evaluate`, and the run's config as they change it."""
    parser = make_parser("embed", __doc__)
    parser.add_argument("--workdir", required=True, help="folder of the training run")
    parser.add_argument("--input", required=True, nargs="+", action="extend", metavar="FILE")
    about = "of the inputs that are no data set; default: told from each"
    known = sorted(set(datasets.READERS) - {"synthetic"})
    parser.add_argument("--format", choices=known, help=about)
    for name, about in READER_OPTIONS.items():
        parser.add_argument(f"--{name}", help=f"of the inputs: {about}")
    parser.add_argument("--out", help="file to write, NAME.npz; default: only print")
    parser.add_argument("--neighbours", type=int, default=5, help="0: none; default: 5")
    about = "of clips that are no data set; default: that of the run's training"
    parser.add_argument("--normalize", choices=tuple(NORMALIZERS), help=about)
    about = "that evaluate has made; default: the linear one, if it is there and fits"
    parser.add_argument("--classifier", metavar="NAME", help=about)
    args, rest = parser.parse_known_args(argv)
    for name in ("--protocol", "--part"):
        if any(each.split("=")[0] == name for each in rest):
            raise UserError(f"{name} means nothing to embed; --classifier chooses a classifier")
    # The rest is what `evaluate` knows; the protocol only has to be one that takes any stream.
    known, config = evaluate.parse_args([*rest, f"--workdir={args.workdir}", "--protocol=knn"])
    if known.encoder != "trained":
        raise UserError("only trained encoders embed; leave out --encoder")
    if args.neighbours < 0:
        raise UserError(f"--neighbours={args.neighbours}; give 0 or more")
    choices = (*classifier.PROTOCOLS, "none")
    if args.classifier and not re.fullmatch(rf"({'|'.join(choices)})(_[^/]*)?", args.classifier):
        raise UserError(
            f"--classifier={args.classifier}; give {', '.join(choices)}, or a file's name"
        )
    if args.out and not args.out.endswith(".npz"):
        raise UserError(f"--out={args.out} does not end in .npz")
    return argparse.Namespace(**(vars(known) | vars(args))), config


def read_clips(
    path: Path,
    format: str | None,
    options: Mapping[str, str],
    layout: Layout,
    to_apply: str | None = None,
) -> list[Clip]:
    """The clips of a file or folder, with the joints and bodies of `layout`, not yet normalised.

    Damaged ones are named on standard error and left out. The only clip of a file is called by its
    path, others as the format calls them.

    Args:
        format: of the files; None to tell it from them.
        options: of the format's reader. A .npy array has the joints of `layout` if they say nothing.
        to_apply: what the clips will be normalised by; those that come with another are refused, see
            `normalization.check_files`. None takes them all.

    Raises:
        UserError: no clip is sound, or the joints cannot be taken to `layout`.
    """
    format = format or datasets.guess_format(path)
    if format == "npy":
        options = {"layout": layout} | dict(options)
    source = datasets.open_source(format, path, **options)
    if to_apply:
        normalization.check_files(source.normalized, path, to_apply)
    reading = Reading(source.read, source.layout, len(source.class_names), "none", layout)
    results = list(read_items(reading, source.items, workers=1))
    clips = [clip for result in results for clip in result.clips]
    damaged = [entry["reason"] for result in results for entry in result.damaged]
    if not clips:
        raise UserError(damaged[0] if damaged else f"{path} has no clips; check what it is")
    for reason in damaged:
        print(f"damaged, left out: {reason}", file=sys.stderr)
    if path.is_file() and len(clips) == len(source.items) == 1:
        clips = [dataclasses.replace(clip, name=str(path)) for clip in clips]
    return clips


def read_inputs(args: argparse.Namespace, layout: Layout, normalized: str) -> list[Any]:
    """The inputs as data sets: the clips of all files, in their order, as one; then each data set.

    A name that is there twice gets its path in front.

    `normalized`: as the encoder knows clips, see `training.normalization`, or as the user asks. Raises
    UserError for an input that cannot be read or is of another skeleton or normalisation.
    """
    options = {name: getattr(args, name) for name in READER_OPTIONS if getattr(args, name)}
    to_apply = normalization.to_apply(normalized)
    wanted = None if args.normalize else to_apply  # who gives it means it
    clips: dict[str, np.ndarray] = {}
    found = []
    for path in map(Path, dict.fromkeys(args.input)):
        path = path.expanduser()
        if not datasets.is_dataset(path):
            for clip in read_clips(path, args.format, options, layout, wanted):
                name = clip.name if clip.name not in clips else f"{path}/{clip.name}"
                clips[name] = clip.frames
            continue
        dataset = datasets.open_dataset(path)
        load.check_data(dataset, args.workdir, args.step)
        found.append(dataset)
    if clips:
        names, frames = list(clips), list(clips.values())
        single = datasets.from_arrays(frames, None, layout=layout, names=names, normalize=to_apply)
        found.insert(0, single)
    return found


def embed(args: argparse.Namespace, config: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
    """What the .npz file holds, see the head of this file."""
    wanted = args.neighbours and config.data.dir
    dataset = datasets.open_dataset(config.data.dir) if wanted else None
    if args.neighbours and not dataset:
        raise UserError(
            "neighbours need the run's data set: give --config.data.dir=DIR, or --neighbours=0"
        )
    info = checkpoint.load_info(args.workdir, args.step)
    if "graphs" in info["layout"]:
        raise UserError(f"{args.workdir} is a run of graphs; embed takes clips")
    if dataset:
        load.check_data(dataset, args.workdir, args.step)
    layout = dataset.layout if dataset else restore_layout(info["layout"])
    trained = normalization.of_run(args.workdir, info)
    own = normalization.of_dataset(dataset.metadata) if dataset else None
    # Runs that do not tell are older than upright.
    normalized = normalization.choose(args.normalize, args.workdir, trained) or own or "view"
    inputs = read_inputs(args, layout, normalized)
    config, variables, step = load.load_encoder(
        args.encoder, config, layout, args.workdir, step=args.step, joined=args.join,
        normalized=own if args.neighbours else trained,
    )  # fmt: skip
    lengths = np.concatenate([clips.lengths for clips in inputs])
    if cut := pipeline.describe_cut(lengths, config.data.max_frames, "input"):
        print(cut, file=sys.stderr)
    fusions = streams.parse_fusions(args.stream, config.streams)
    if len(fusions) > 1:
        raise UserError("give --stream one stream, mean, concat or ensemble")
    layers = classifier.choose(
        args.classifier, args.workdir, fusions[0], config.streams, variables, step,
        None if args.normalize else normalized,  # who says it means it, of normalised clips too
        # More of the command that makes it.
        [f"--join={run}" for run in args.join] + [f"--step={args.step}"] * (args.step is not None),
    )  # fmt: skip
    if fusions[0] == "ensemble" and not layers:
        raise UserError("--stream=ensemble is of a classifier; give --classifier, or --stream=mean")
    needed = streams.find_needed(fusions, config.streams)
    with_points = features.make_embedding("trained", config, layout, needed, points=True)
    if dataset:
        features.check_fit(features.Encoder(with_points, variables, needed), config, layout)
    extract = features.make_centre_extractor(config, layout, with_points)
    found = [features.extract_clips(config, clips, extract, variables) for clips in inputs]
    parts = [np.concatenate([each.values[0] for each in found])]
    if args.neighbours:
        train = features.extract_split(
            config, dataset, "train", extract, variables, progress=True, labelled=False
        )
        parts.append(train.values[0])
    end = len(needed) * config.encoder.dim
    fusion = "concat" if fusions[0] == "ensemble" else fusions[0]
    chosen = [streams.select(part[:, :-end], fusion, needed) for part in parts]
    result = {
        "names": np.array([name for clips in inputs for name in clips.names]),
        "features": chosen[0],
        "embeddings": streams.select(parts[0][:, -end:], fusion, needed),
    }
    if layers:
        looks = streams.find_needed([part.fusion for part in layers.parts], layers.streams)
        views = (needed, config.knn.crop, config.views.num_frames)
        if layers.variables is None and (looks, layers.crop, layers.num_frames) == views:
            scores = classifier.classify(layers, parts[0][:, :-end], needed)
        else:
            score = classifier.make_scorer(layers, config, layout, variables)
            scores = np.concatenate([score(clips) for clips in inputs])
        result |= {"scores": scores, "class_names": np.array(layers.class_names)}
    if args.neighbours:
        result |= find_neighbours(chosen[0], chosen[1], dataset, train.index, args.neighbours)
    return result


def find_neighbours(
    queries: Float[np.ndarray, "queries features"],
    keys: Float[np.ndarray, "clips features"],
    dataset: Any,
    numbers: Int[np.ndarray, " clips"],
    count: int,
) -> dict[str, np.ndarray]:
    """Names, classes and cosines of the `count` nearest keys, the nearest first.

    `numbers`: the clips of the data set that the keys are of.
    """
    places, similarities = map(np.asarray, knn.nearest(keys, queries, min(count, len(keys))))
    clips = numbers[places]
    return {
        "neighbour_names": np.array(dataset.names)[clips],
        # The last, which is what -1 finds, is for clips without a label.
        "neighbour_classes": np.array([*dataset.class_names, "?"])[dataset.labels[clips]],
        "similarities": similarities,
    }


def format_clips(result: dict[str, np.ndarray]) -> str:
    """For each clip a line with its name, its best classes, and a line for each neighbour."""
    lines = []
    columns = ("similarities", "neighbour_classes", "neighbour_names")
    for row, name in enumerate(result["names"]):
        lines.append(str(name))
        if "scores" in result:
            lines.append(classifier.format_best(result["scores"][row], [*result["class_names"]]))
        if "similarities" in result:
            neighbours = zip(*(result[column][row] for column in columns), strict=True)
            lines += [f"  {cosine:6.3f}  {kind}  ({other})" for cosine, kind, other in neighbours]
    return "\n".join(lines)


def run(argv: Sequence[str]) -> None:
    """Embeds, writes and prints."""
    args, config = parse_args(argv)
    path = Path(args.out).expanduser() if args.out else None
    if path and path.exists():
        raise UserError(f"{args.out} exists; choose another --out")
    result = embed(args, config)
    if path:
        with atomic_write(path, "choose another --out") as stream:
            np.savez(stream, **result)
    if args.neighbours or "scores" in result:
        print(format_clips(result))
    shown = [name for name in ("features", "embeddings", "scores") if name in result]
    shapes = ", ".join(f"{name} {list(result[name].shape)}" for name in shown)
    print(f"{len(result['names'])} clips: {shapes}" + (f": {path}" if path else ""))


def main(argv: Sequence[str] | None = None) -> int:
    return run_command("embed", run, argv)


if __name__ == "__main__":
    sys.exit(main())
