"""Using a classifier that `evaluate` has kept: does it fit, and what does it say about clips."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Float

from halp_jax.errors import UserError
from halp_jax.evaluation import classifier, streams
from halp_jax.evaluation import features as feats
from halp_jax.evaluation.classifier import Classifier
from halp_jax.evaluation.finetune_store import fingerprint
from halp_jax.methods.prepare import make_prepare
from halp_jax.methods.probe import Probe, apply_probe
from halp_jax.skeletons.layout import Layout
from halp_jax.training.normalization import agree


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
    """The classifier of this name (see `classifier.find`) for an encoder with the streams `names`.

    None for "none", and where no name is given if there is no linear one or, which is said, it does
    not fit. `normalization`: of the clips, None if it is not to be checked. `options`: more of the
    command that would make it.

    Raises:
        UserError: the one that was asked for cannot be used.
    """
    if name == "none":
        return None
    path, advice = classifier.find(workdir, name or "linear", fusion, names, options)
    try:
        found = classifier.load(path, advice)
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
) -> Callable[[Iterable[dict[str, np.ndarray]], int], Float[np.ndarray, "clips classes"]]:
    """-> score(batches, num_clips), from clips, cropped as the classifier's test clips were.

    `variables` are the frozen encoder's; a fine-tuned classifier uses its own.
    """
    own = streams.with_streams(config, found.streams)
    needed = streams.find_needed([part.fusion for part in found.parts], found.streams)
    embed = feats.make_embedding("trained", own, layout, needed)
    extract = feats.make_extractor(
        embed, crop=found.crop, num_frames=found.num_frames, prepare=make_prepare(config, layout)
    )
    variables = variables if found.variables is None else found.variables
    if found.variables is not None:
        feats.check_fit(feats.Encoder(embed, variables, needed), own, layout)

    def score(batches, num_clips):
        return classify(found, extract(variables, batches, num_clips).values[0], needed)

    return score


def format_best(scores: Float[np.ndarray, " classes"], names: Sequence[str], count: int = 3) -> str:
    """A line with probability and name of each of the most probable classes, the best first."""
    best = np.argsort(-scores, kind="stable")[:count]
    return "\n".join(f"  {100 * scores[place]:5.1f} %  {names[place]}" for place in best)
