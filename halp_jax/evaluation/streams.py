"""Looking at an encoder of several streams: one of them, their mean or concatenation, an ensemble.

"mean" is what the released code of CMD calls `all` in retrieval, "together" its and CrosSCLR's `all` in the
linear probe: a linear layer on each stream, trained at once on the mean of their logits (here with one bias).
"ensemble" is the field's way with classifiers: one on each stream, their scores added with weights (AimCLR: 0.6
joint, 0.6 bone, 0.4 motion). The streams may come from one run that trained them together, or from several.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Float, PyTree

from halp_jax.errors import UserError
from halp_jax.methods import check, prepare

TUNING = ("finetune", "transfer", "semi")  # protocols that train the encoder, too
COMBINED = ("mean", "concat", "together", "ensemble")


def parse_fusions(text: str, names: Sequence[str]) -> tuple[str, ...]:
    """--stream=joint,mean -> ("joint", "mean"); nothing is the first of `names`, the streams there.

    Raises UserError for what is neither a stream of this encoder nor a combination of them.
    """
    fusions = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for fusion in fusions:
        if fusion not in (*names, *COMBINED):
            known = ", ".join((*names, *COMBINED))
            raise UserError(f"this encoder has no stream {fusion!r}; use one of {known}")
    return fusions or tuple(names[:1])


def check_fusions(protocol: str, fusions: Sequence[str]) -> None:
    """Raises UserError for a combination that a protocol cannot take."""
    for fusion in fusions:
        if protocol == "knn" and fusion in ("ensemble", "together"):
            raise UserError(
                f"neighbours have no scores to add up: --stream=mean or concat, not {fusion}"
            )
        if protocol in TUNING and fusion in ("mean", "concat", "together"):
            raise UserError(
                f"--stream={fusion} is of frozen features; fine-tune streams or ensemble"
            )


def find_needed(fusions: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The streams that must be encoded for these fusions, in the order of `names`."""
    combined = any(fusion in COMBINED for fusion in fusions)
    return tuple(name for name in names if combined or name in fusions)


def select(
    features: Float[np.ndarray, "*rows joined"], fusion: str, streams: Sequence[str]
) -> Float[np.ndarray, "*rows selected"]:
    """One look at features that hold those of `streams` side by side on the last axis."""
    if fusion == "concat":
        return features
    if fusion == "together":  # one layer on all is a layer on each
        return features / len(streams)
    parts = features.reshape(*features.shape[:-1], len(streams), -1)
    if fusion == "mean":
        return parts.mean(axis=-2)
    return parts[..., streams.index(fusion), :]


def with_streams(
    config: ml_collections.ConfigDict, names: Sequence[str]
) -> ml_collections.ConfigDict:
    """The config of a run with these streams; the original stays as it is."""
    config = ml_collections.ConfigDict(config)
    with config.unlocked():
        config.streams = tuple(names)
    return config


def _tell_sight(config: ml_collections.ConfigDict) -> list[Any]:
    """What an encoder is and what it sees of a clip."""
    own = config.to_dict()
    frames = [check.get(config, name) for name in prepare.FRAMES]
    return [own["method"], own["encoder"], frames, own.get("isc"), *map(own.get, prepare.SECTIONS)]


def join(
    runs: Sequence[tuple[ml_collections.ConfigDict, PyTree]],
) -> tuple[ml_collections.ConfigDict, Any]:
    """Several runs' (config, variables) as one encoder with the streams of all of them.

    The config is the first run's, with all streams. Raises UserError where two runs have the same
    stream or encoders of other settings.
    """
    config = runs[0][0]
    names = tuple(name for other, _ in runs for name in other.streams)
    if len(set(names)) < len(names):
        raise UserError(
            f"the joined runs have streams {', '.join(names)}: each may be there only once"
        )
    for other, _ in runs[1:]:
        if _tell_sight(other) != _tell_sight(config):
            raise UserError(
                f"the run of {', '.join(other.streams)} is of another method or encoder, or sees other frames: "
                "runs that are joined need the same config.method, encoder, views and preparation"
            )
    variables = [variables for _, variables in runs]
    return with_streams(config, names), jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves), *variables
    )
