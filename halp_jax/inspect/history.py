"""Over training: what a run wrote down as it went, and how its prototypes moved between checkpoints."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from halp_jax import methods
from halp_jax.errors import UserError
from halp_jax.training import checkpoint, report
from halp_jax.training.checkpoint_io import CHECKPOINTS, list_steps

# Figures of HaLP itself mean nothing until it is on.
OF_HALP = ("t_star", "kept", "not_argmin", "prototypes_used")
SERIES = (*OF_HALP, "alignment", "uniformity", "contrast_accuracy")


class History(NamedTuple):
    """Figures [streams, records] of each name in SERIES; NaN where there was none."""

    step: Int[np.ndarray, " records"]
    epoch: Float[np.ndarray, " records"]
    streams: tuple[str, ...]
    figures: dict[str, np.ndarray]
    halp_from: float | None  # the first epoch in which mu was above 0


class Moves(NamedTuple):
    """From each checkpoint kept to the next: the angle to the nearest new prototype, degrees."""

    step: Int[np.ndarray, " pairs"]  # of the later one
    degrees: Float[np.ndarray, "pairs m"]


def read_history(workdir: str | os.PathLike[str]) -> History:
    """The lines of metrics.jsonl as arrays."""
    config = checkpoint.load_config(workdir)
    records = [record for record in report.read_metrics(workdir) if "loss" in record]
    if not records:
        raise UserError(f"{workdir}/{report.METRICS} has no line of training yet: train for longer")
    streams = tuple(config.streams)
    on = np.array([(record.get("mu") or 0) > 0 for record in records])
    figures = {}
    for name in SERIES:
        keys = [f"{name}_{stream}" for stream in streams] if len(streams) > 1 else [name]
        rows = np.array([[record.get(key) for record in records] for key in keys], float)
        figures[name] = np.where(on, rows, np.nan) if name in OF_HALP else rows
    steps = np.array([record["step"] for record in records])
    epochs = np.array([record.get("epoch") for record in records], float)
    start = float(epochs[on][0]) if on.any() else None
    return History(steps, epochs, streams, figures, start)


def read_prototypes(state: Any, stream: int, side: str = "") -> Float[np.ndarray, "m dim"]:
    """Those of one stream of a state; none where its method keeps none. Graphs have one stream.

    Args:
        side: whose prototypes, of a method that keeps those of two encoders in extra["memory"].
    """
    kept = state.extra["memory"][side] if "memory" in state.extra else state.extra
    if (prototypes := kept.get("prototypes")) is None:
        return np.zeros((0, 0), np.float32)
    return np.asarray(prototypes if prototypes.ndim == 2 else prototypes[stream])


def read_moves(workdir: str | os.PathLike[str], stream: int = 0) -> Moves:
    """How far each prototype is from the nearest of the next checkpoint.

    Prototypes are clustered anew every few steps and their order means nothing, so it is the nearest
    that counts, not the one of the same number. `checkpoint.keep_every_epochs` keeps more of them.

    Raises:
        UserError: the run's method keeps none, as GraphCL, which makes them anew of each batch.
    """
    steps = sorted(list_steps(Path(workdir).expanduser() / CHECKPOINTS))
    states = (checkpoint.restore_state(workdir, step)[0] for step in steps)
    config = checkpoint.load_config(workdir)
    side = methods.find_method(config).find_side(config)[0]
    found = [read_prototypes(state, stream, side) for state in states]
    if not any(map(len, found)):
        raise UserError(f"{workdir} keeps no prototypes from step to step, so none of them moves")
    pairs = [
        (step, np.degrees(np.arccos(np.clip((old @ new.T).max(1), -1, 1))))
        for step, old, new in zip(steps[1:], found, found[1:], strict=False)
        if old.any() and new.any()
    ]
    return Moves(
        np.array([step for step, _ in pairs], int),
        np.array([degrees for _, degrees in pairs], float).reshape(-1, len(found[0])),
    )
