"""Classifiers that `evaluate` keeps beside its metrics, and `embed` uses: linear layers on features.

WORKDIR/eval/PROTOCOL.npz, without pickles: `info` (JSON, below), for each part i the arrays
`i/weight` [features, classes], `i/bias`, `i/mean` and `i/scale` [features], and of fine-tuning the
fine-tuned encoders as `encoder/NAME`, with a leading axis of streams. A classifier's scores are

    sum over parts of  share * (((features - mean) / scale) @ weight + bias),    then a softmax

with one part, or of an ensemble one for each of its streams.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Float

from halp_jax.datasets.atomic_write import atomic_write
from halp_jax.errors import UserError
from halp_jax.evaluation import features as feats
from halp_jax.evaluation import streams
from halp_jax.methods.probe import Probe, apply_probe
from halp_jax.skeletons.layout import Layout
from halp_jax.training.checkpoint_io import checksum, flatten
from halp_jax.training.normalization import agree

PROTOCOLS = ("linear", "finetune", "transfer")
_FORMAT = 1


class Part(NamedTuple):
    """One linear layer: on the features of `fusion`, a stream, "mean" or "concat" of streams."""

    fusion: str
    share: float
    probe: Probe
    mean: Any  # [features], subtracted from them before the layer
    scale: Any  # [features], they are divided by it


class Classifier(NamedTuple):
    """What the file holds. `step` and `encoder_id` are of the frozen encoder it stands on."""

    parts: tuple[Part, ...]
    class_names: tuple[str, ...]
    crop: float  # centre crop of the clips
    num_frames: int
    streams: tuple[str, ...]  # of the encoder
    variables: Any = None  # (params, batch_stats) of `streams` after fine-tuning, or None
    protocol: str = "linear"
    normalize: str | None = None  # normalisation of the clips, where it is known
    step: int | None = None
    encoder_id: str = ""  # `fingerprint` of the frozen encoder


def plain_part(fusion: str, share: float, probe: Any) -> Part:
    """A part on features as they are."""
    size = len(probe.weight)
    return Part(fusion, share, probe, np.zeros(size, np.float32), np.ones(size, np.float32))


_TEXT = [name for name in Classifier._fields if name not in ("parts", "variables")]


def fingerprint(*trees: Any) -> str:
    """16 hex digits that tell pytrees of arrays apart, by their names, shapes and bytes."""
    tables = [{n: checksum(np.asarray(x)) for n, x in flatten(tree).items()} for tree in trees]
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()[:16]


def save(path: Path, found: Classifier | None) -> None:
    """Writes the file, whole or not at all; with None removes the one there, which was of other metrics."""
    if found is None:
        path.unlink(missing_ok=True)
        return
    info = {"format": _FORMAT} | {name: getattr(found, name) for name in _TEXT}
    info["parts"] = [[part.fusion, part.share] for part in found.parts]
    table = {"info": np.array(json.dumps(info))}
    for number, part in enumerate(found.parts):
        own = {**part.probe._asdict(), "mean": part.mean, "scale": part.scale}
        table |= {f"{number}/{name}": np.asarray(leaf) for name, leaf in own.items()}
    if found.variables is not None:
        leaves = flatten(found.variables)
        table |= {f"encoder/{name}": np.asarray(leaf) for name, leaf in leaves.items()}
    with atomic_write(path, "evaluate again with another --workdir") as stream:
        np.savez(stream, **table)


def load(path: Path, advice: str) -> Classifier:
    """The classifier of a file. Raises UserError, ending with `advice`, if there is none in it."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            table = dict(arrays)
        info = json.loads(str(table.pop("info")))
        if info["format"] != _FORMAT:
            raise ValueError(f"its format is {info['format']}, not {_FORMAT}")
        parts = []
        for number, (fusion, share) in enumerate(info["parts"]):
            weight, bias, mean, scale = (
                table[f"{number}/{name}"] for name in ("weight", "bias", "mean", "scale")
            )
            parts.append(Part(fusion, float(share), Probe(weight, bias), mean, scale))
        text = {name: info[name] for name in _TEXT}
        text |= {name: tuple(info[name]) for name in ("class_names", "streams")}
        encoder = {
            name.removeprefix("encoder/"): leaf
            for name, leaf in table.items()
            if name.startswith("encoder/")
        }
        trees = unflatten_dict(encoder, sep="/")  # {"0": params, "1": batch_stats}, or nothing
        variables = (trees["0"], trees.get("1", {})) if trees else None
    except FileNotFoundError:
        raise UserError(f"there is no {path}: {advice}") from None
    except Exception as error:  # of many kinds: zipfile, zlib, json, numpy's header
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} cannot be read ({reason}): {advice}") from error
    return Classifier(tuple(parts), variables=variables, **text)


def find(
    workdir: str | Path,
    name: str,
    fusion: str,
    names: Sequence[str],
    options: Sequence[str] = (),
) -> tuple[Path, str]:
    """(its file, the advice to make it or to take another) of a look at a run with the streams `names`.

    Args:
        name: a protocol, or the name of one of its files: linear_1a2b3c is of other settings.
        options: more of the command that makes it, as --join=DIR.
    """
    protocol, options = name.split("_")[0], [*options]
    if name == protocol and fusion != names[0]:
        name, options = f"{name}_{fusion}", [*options, f"--stream={fusion}"]
    path = Path(workdir).expanduser() / "eval" / f"{name}.npz"
    words = [f"run evaluate --workdir={workdir} --protocol={protocol}", *options]
    others = sorted(p.stem for p in path.parent.glob(f"{protocol}*.npz") if p != path)
    return path, " ".join(words) + "".join(f", or give --classifier={other}" for other in others)


def choose(
    name: str | None,
    workdir: str | Path,
    fusion: str,
    names: Sequence[str],
    variables: Any,
    step: int | None,
    normalization: str | None,
    options: Sequence[str] = (),
) -> Classifier | None:
    """The classifier of this name (see `find`) for an encoder with the streams `names`.

    None for "none", and where no name is given if there is no linear one or, which is said, it does
    not fit. `normalization`: of the clips, None if it is not to be checked. `options`: more of the
    command that would make it.

    Raises:
        UserError: the one that was asked for cannot be used.
    """
    if name == "none":
        return None
    path, advice = find(workdir, name or "linear", fusion, names, options)
    try:
        found = load(path, advice)
        check_fit(found, path, names, step, variables, normalization, advice)
    except UserError as error:
        if name:
            raise
        if any(path.parent.glob(f"{path.stem}*.npz")):
            print(f"no scores: {error}", file=sys.stderr)
        return None
    return found


def check_fit(
    found: Classifier,
    path: Path,
    names: Sequence[str],
    step: int | None,
    variables: Any,
    normalization: str | None,
    advice: str,
) -> None:
    """Raises UserError when a classifier is of another normalisation or, if linear, encoder.

    A fine-tuned one brings its encoder with it: what has become of the run is all the same.
    """
    if not agree(normalization, found.normalize):
        raise UserError(
            f"{path} was made from clips normalised by {found.normalize}, these are by "
            f"{normalization}: {advice}, or give --classifier=none"
        )
    if found.variables is not None:
        return
    if found.streams != tuple(names):
        theirs, ours = ", ".join(found.streams), ", ".join(names)
        raise UserError(
            f"{path} is of an encoder with the streams {theirs}, this has {ours}: {advice}"
        )
    if found.step != step:
        raise UserError(
            f"{path} was made from checkpoint {found.step}, this is {step}: {advice}, or give "
            f"embed --step={found.step}"
        )
    if found.encoder_id != fingerprint(variables):
        raise UserError(f"{path} was made from other weights of step {step}: {advice}")


def classify(
    found: Classifier, features: Float[np.ndarray, "clips joined"], names: Sequence[str]
) -> Float[np.ndarray, "clips classes"]:
    """Probabilities from features of the streams `names`, which stand side by side."""
    logits = 0.0
    for part in found.parts:
        own = streams.select(features, part.fusion, names)
        probe = Probe(*map(jnp.asarray, part.probe))
        logits += part.share * apply_probe(probe, jnp.asarray((own - part.mean) / part.scale))
    return np.asarray(jax.nn.softmax(logits, axis=-1))


def make_scorer(
    found: Classifier, config: ml_collections.ConfigDict, layout: Layout, variables: Any
) -> Callable[[Any], Float[np.ndarray, "clips classes"]]:
    """-> score(dataset), of all its clips, cropped as the classifier's test clips were.

    `variables` are the frozen encoder's; a fine-tuned classifier uses its own.
    """
    own = streams.with_streams(config, found.streams)
    needed = streams.find_needed([part.fusion for part in found.parts], found.streams)
    embed = feats.make_embedding("trained", own, layout, needed)
    extract = feats.make_centre_extractor(config, layout, embed, found.crop, found.num_frames)
    variables = variables if found.variables is None else found.variables
    if found.variables is not None:
        feats.check_fit(feats.Encoder(embed, variables, needed), own, layout)

    def score(dataset):
        own = feats.extract_clips(config, dataset, extract, variables)
        return classify(found, own.values[0], needed)

    return score


def format_best(scores: Float[np.ndarray, " classes"], names: Sequence[str], count: int = 3) -> str:
    """A line with probability and name of each of the most probable classes, the best first."""
    best = np.argsort(-scores, kind="stable")[:count]
    return "\n".join(f"  {100 * scores[place]:5.1f} %  {names[place]}" for place in best)
