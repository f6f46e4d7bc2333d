"""The encoder that an evaluation is about: of a run, of several runs joined, untrained, or none."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections

from halp_jax import methods
from halp_jax.errors import UserError
from halp_jax.evaluation import features, streams
from halp_jax.methods.base import Spec
from halp_jax.skeletons.common import match_joints, name_option
from halp_jax.skeletons.layout import Layout
from halp_jax.skeletons.layout_file import restore_layout
from halp_jax.training import checkpoint, normalization


def load_encoder(
    kind: str,
    config: ml_collections.ConfigDict,
    layout: Layout,
    workdir: str | os.PathLike[str],
    *,
    step: int | None = None,
    joined: Sequence[str] = (),
    normalized: str | None = None,
) -> tuple[ml_collections.ConfigDict, Any, int | None]:
    """(config, variables, step) of one of `features.ENCODERS`.

    Args:
        step: which checkpoint of `workdir`; the newest if None.
        joined: workdirs of further runs, whose streams stand beside this one's.
        normalized: what the clips are normalised by, as `normalization.of_dataset` tells it.

    Raises:
        UserError: there is no such run or checkpoint, runs do not fit together, or `layout` or
            `normalized` is not that of their training.
    """
    if kind == "raw":
        return config, (), None
    if kind == "random":
        return config, features.get_variables(methods.create_state(config, Spec(layout))), 0
    features.check_same_encoder(config, checkpoint.load_config(workdir))
    state, step = checkpoint.restore_state(workdir, step)
    where = config.data.dir or "the input"
    check_clips(layout, normalized, where, workdir, step)
    runs = [(config, features.get_variables(state))]
    for other in joined:
        state, last = checkpoint.restore_state(other)
        check_clips(layout, normalized, where, other, last)
        runs.append((checkpoint.load_config(other), features.get_variables(state)))
    return *streams.join(runs), step


def check_clips(
    layout: Layout,
    normalized: str | None,
    where: object,
    workdir: str | os.PathLike[str],
    step: int | None,
) -> None:
    """Raises UserError when the clips of `where` are not of the kind that a run was trained on."""
    info = checkpoint.load_info(workdir, step)
    check_layout(layout, restore_layout(info["layout"]))
    normalization.check(normalized, where, workdir, info)


def check_layout(layout: Layout, trained: Layout) -> None:
    """Raises UserError when clips of `layout` are not what an encoder of `trained` takes.

    Joints of other names in the same number may well be the same; of the same names in another
    order they are not, which shapes would not tell.
    """
    same_shape = (layout.bodies, layout.num_joints) == (trained.bodies, trained.num_joints)
    try:
        joints = match_joints(layout, trained)
    except UserError as error:
        if same_shape:
            return
        raise UserError(f"the encoder was trained on {trained.name}: {error}") from error
    if not same_shape or joints != tuple(range(trained.num_joints)):
        raise UserError(
            f"the encoder was trained on {trained.name} and these clips are {layout.name}: prepare"
            f" them again with {name_option(trained)}"
        )


def check_transfer(config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]) -> None:
    """Raises UserError when the data set is the one of the run's own pre-training."""
    source = checkpoint.load_config(workdir).data.dir
    if Path(source).resolve() == Path(config.data.dir).resolve():
        raise UserError(
            f"the encoder was pre-trained on {source} itself: give another data set as "
            "--config.data.dir=DIR, or use --protocol=finetune"
        )
