"""What `halp_jax.watch` shows of runs: a row of its table and a curve of each figure, as plain data."""

from statistics import median
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from halp_jax.inspect.live.files import Run
from halp_jax.methods.halp import ACCURACY, WEIGHT, find_collapse

# Of HaLP itself: they mean nothing until it is on.
OF_HALP = ("loss_halp", "kept")
KNN = "knn_top1"
PER_STREAM = (*OF_HALP, "loss_cl", ACCURACY)
MAX_POINTS = 1000  # of a curve; more are thinned out, which a page of this size does not show
PATIENCE, USUAL = 60.0, 5.0  # a run is stopped after so many seconds, and so many of its lines
TRAINING, FINISHED, NOT_STARTED, STOPPED = "training", "finished", "not started", "stopped"


class Row(NamedTuple):
    """One run in the table; None where there is no such figure (yet)."""

    name: str
    state: str
    quiet: float  # seconds since the last line
    step: int
    steps: int | None  # of the whole run
    epoch: float | None
    epochs: int | None
    loss: float | None
    accuracy: float | None
    kept: float | None
    knn: float | None
    rate: float | None  # clips a second
    left: float | None  # seconds, while it trains
    warning: str | None


class Series(NamedTuple):
    """One curve: the places where the figure was written down."""

    step: Int[np.ndarray, " points"]
    epoch: Float[np.ndarray, " points"]
    value: Float[np.ndarray, " points"]


def read_series(run: Run, name: str, stream: str = "") -> Series:
    """One figure over training, of one stream, or of all together where none is named.

    Figures of HaLP are left out where mu was 0. KNN ends with what `evaluate` has found.
    """
    key = _find_key(run, name, stream)
    points = [
        (record["step"], record.get("epoch"), value)
        for record in run.records
        if (value := record.get(key)) is not None and (name not in OF_HALP or record.get(WEIGHT))
    ]
    if name == KNN and (found := _find_knn(run, stream)):
        if not points or found[0] > points[-1][0]:
            points.append((found[0], None, found[1]))
    if len(points) > MAX_POINTS:
        chosen = np.linspace(0, len(points) - 1, MAX_POINTS).round().astype(int)
        points = [points[place] for place in chosen]
    per_epoch = count_steps(run)
    epochs = [e if e is not None else step / (per_epoch or np.nan) for step, e, _ in points]
    return Series(
        np.array([step for step, _, _ in points], np.int64), np.array(epochs, np.float64),
        np.array([value for _, _, value in points], np.float64),
    )  # fmt: skip


def count_steps(run: Run) -> int | None:
    """Steps of an epoch, as the lines tell."""
    for record in reversed(run.records):
        if record["step"] and (epoch := record.get("epoch")):
            return round(record["step"] / epoch)
    return None


def summarize(run: Run, stream: str = "") -> Row:
    """The run as a row of the table."""
    train = run.config.get("train", {})
    per_epoch, epochs = count_steps(run), train.get("epochs")
    step = run.records[-1]["step"] if run.records else 0
    steps = epochs * per_epoch if epochs and per_epoch else None
    rates = [rate for record in run.records[-10:] if (rate := record.get("clips_per_s"))]
    seconds = train.get("batch_size", 0) / median(rates) if rates else None  # a step takes
    state = _judge(run, step, steps, seconds)

    def last(name):
        """The newest value; of HaLP's figures only what was written while it was on."""
        key = _find_key(run, name, stream)
        record = next((each for each in reversed(run.records) if key in each), {})
        return record.get(key) if name not in OF_HALP or record.get(WEIGHT) else None

    knn = last(KNN)
    if found := _find_knn(run, stream):
        knn = found[1] if knn is None or found[0] >= step else knn
    return Row(
        run.name, state, run.age, step, steps, step / per_epoch if per_epoch else None, epochs,
        last("loss"), last(ACCURACY), last("kept"), knn, last("clips_per_s"),
        (steps - step) * seconds if state == TRAINING and steps and seconds else None, _warn(run),
    )  # fmt: skip


def _judge(run: Run, step: int, steps: int | None, seconds: float | None) -> str:
    if not run.records:
        return NOT_STARTED
    if steps and step >= steps:
        return FINISHED
    recent = [record["step"] for record in run.records[-10:]]
    taken = [after - before for before, after in zip(recent, recent[1:], strict=False)]
    usual = median(taken) * seconds if taken and seconds else 0.0
    return STOPPED if run.age > max(PATIENCE, USUAL * usual) else TRAINING


def _warn(run: Run) -> str | None:
    """What is wrong with the run, in one line, or None."""
    if run.records and run.records[-1].get("loss", 0) is None:
        return f"the loss is no longer finite at step {run.records[-1]['step']}"
    return find_collapse(run.records)


def _find_key(run: Run, name: str, stream: str) -> str:
    """A run of one stream writes `kept`; one of several `kept_joint` too, and their mean as `kept`."""
    if name == KNN:  # training looks at the first stream alone
        return name if stream in ("", *run.streams[:1]) else ""
    if not stream or name not in PER_STREAM or run.streams == (stream,):
        return name
    return f"{name}_{stream}"


def _find_knn(run: Run, stream: str) -> tuple[int, float] | None:
    """(step, top1) of `evaluate`."""
    return run.knn.get(stream or next(iter(run.streams), ""))
