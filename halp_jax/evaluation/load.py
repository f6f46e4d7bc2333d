"""The encoder that an evaluation is about: of a run, of several runs joined, untrained, or none."""

import os
from collections.abc import Sequence
from typing import Any

import ml_collections

from halp_jax import methods
from halp_jax.datasets.graphs import GraphLayout
from halp_jax.errors import UserError
from halp_jax.evaluation import features, streams
from halp_jax.methods.base import Spec
from halp_jax.skeletons.layout import Layout
from halp_jax.training import checkpoint, normalization


def load_encoder(
    kind: str,
    config: ml_collections.ConfigDict,
    layout: Layout | GraphLayout,
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
    check_same_encoder(config, checkpoint.load_config(workdir))
    state, step = checkpoint.restore_state(workdir, step)
    where = config.data.dir or "the input"
    check_input(layout, normalized, where, workdir, step)
    runs = [(config, features.get_variables(state))]
    for other in joined:
        state, last = checkpoint.restore_state(other)
        check_input(layout, normalized, where, other, last)
        runs.append((checkpoint.load_config(other), features.get_variables(state)))
    return *streams.join(runs), step


def check_same_encoder(
    config: ml_collections.ConfigDict, trained: ml_collections.ConfigDict
) -> None:
    """Raises UserError when the settings of a trained encoder are not those of its training.

    Shapes alone would not tell: the weights of both GRU directions look the same.
    """
    ours, theirs = config.to_dict(), trained.to_dict()  # ConfigDicts differ by being locked, too
    for name in ("streams", "encoder"):
        if ours[name] != theirs[name]:
            raise UserError(
                f"config.{name} is not that of the training run; leave it out, or evaluate "
                "another run (the streams to look at are chosen by --stream)"
            )


def check_data(dataset: Any, workdir: str | os.PathLike[str], step: int | None) -> None:
    """Raises UserError when a data set is not of the kind that a run was trained on."""
    normalized = None if dataset.unit == "graphs" else normalization.of_dataset(dataset.metadata)
    check_input(dataset.layout, normalized, dataset.path, workdir, step)


def check_input(
    layout: Layout | GraphLayout,
    normalized: str | None,
    where: object,
    workdir: str | os.PathLike[str],
    step: int | None,
) -> None:
    """Raises UserError when clips or graphs of `where` are not of the kind that a run was trained on."""
    info = checkpoint.load_info(workdir, step)
    theirs, ours = "graphs" in info["layout"], isinstance(layout, GraphLayout)
    if theirs != ours:
        units = ("clips", "graphs")
        raise UserError(f"{where} holds {units[ours]}; {workdir} was trained on {units[theirs]}")
    if isinstance(layout, Layout):
        normalization.check_layout(layout, info)
        normalization.check(normalized, where, workdir, info)
    elif info["layout"] != layout.describe():
        raise UserError(
            f"the encoder of {workdir} was trained on nodes with {info['layout']}, those of {where} "
            f"have {layout.describe()}: evaluate it on the data set of its training"
        )
