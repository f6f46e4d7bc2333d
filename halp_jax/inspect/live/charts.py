"""What `halp_jax.watch` shows of runs, as plain data: curves, a row of the table. No Dash in here.

A run keeps its colour and its dash everywhere. Themes: "light" and "dark".
"""

import base64
import textwrap
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from halp_jax.inspect import page
from halp_jax.inspect.live.files import Run
from halp_jax.methods.halp import ACCURACY, WEIGHT, find_collapse
from halp_jax.progress import duration

COLOURS = (page.BLUE, page.VERMILION, page.GREEN, page.PURPLE, page.SKY, page.ORANGE)
DASHES = {"solid": "", "dash": "9 5", "dashdot": "9 4 2 4", "dot": "2 4"}  # names: strokes in SVG
GRID = {"light": "#e3e5e8", "dark": "#33373d"}
BOX = {"light": "#ffffff", "dark": "#22262b"}
AXES = {"epoch": "epoch", "step": "step (batches)"}
NONE = "–"
HEADINGS = (
    "run", "state", "step", "epoch", "loss", "contrast accuracy", "positives kept",
    "1-NN accuracy", "clips/s", "time left",
)  # fmt: skip
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


class Panel(NamedTuple):
    """One small chart."""

    name: str  # of the figure in metrics.jsonl
    title: str
    unit: str  # of the y axis
    scale: float = 1.0
    digits: str = ".3f"
    empty: str = "no line of this yet"


PANELS = (
    Panel("loss", "loss, all parts", "loss"),
    Panel("loss_cl", "contrastive loss", "nats"),
    Panel("loss_halp", "loss of HaLP", "loss", empty="HaLP has not been on (mu = 0)"),
    Panel("mu", "weight of HaLP, mu", "mu"),
    Panel("contrast_accuracy", "contrast accuracy", "% of queries", 100, ".1f"),
    Panel("kept", "positives kept", "%", 100, ".1f", "HaLP has not been on (mu = 0)"),
    Panel(
        "knn_top1", "1-NN accuracy", "% of test clips", 100, ".1f",
        "no look at the test clips yet (config.knn.every_epochs, or evaluate --protocol=knn)",
    ),
    Panel("clips_per_s", "speed", "clips/s", 1, ",.0f"),
)  # fmt: skip


def style_run(place: int) -> tuple[str, str]:
    """(colour, dash) of the run at this place of the list: 24 pairs, neighbours differ in both."""
    return COLOURS[place % 6], list(DASHES)[(place + place // 12) % 4]


def plot_swatch(place: int) -> str:
    """A stroke of a run's line, as the address of an image."""
    colour, dash = style_run(place)
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="34" height="10"><line x1="1" x2="33" y1="5"'
        f' y2="5" stroke="{colour}" stroke-width="3" stroke-dasharray="{DASHES[dash]}"/></svg>'
    )
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def plot_panel(
    panel: Panel,
    runs: Sequence[Run],
    hidden: Sequence[str] = (),
    axis: str = "epoch",
    stream: str = "",
    theme: str = "light",
) -> dict[str, Any]:
    """One chart of all runs but the hidden ones, as plotly's own dictionary."""
    curves = []
    for place, run in enumerate(runs):
        series = read_series(run, panel.name, stream)
        if run.name in hidden or not len(series.value):
            continue
        colour, dash = style_run(place)
        curves.append(
            {
                "type": "scatter", "name": run.name, "showlegend": False,
                "x": (series.epoch if axis == "epoch" else series.step).tolist(),
                "y": (series.value * panel.scale).tolist(),
                "customdata": list(zip(series.epoch.tolist(), series.step.tolist(), strict=True)),
                "mode": "lines+markers" if len(series.value) <= 12 else "lines", "marker": {"size": 5},
                "line": {"color": colour, "dash": dash, "width": 1.8},
                "hovertemplate": f"<b>%{{fullData.name}}</b><br>{panel.title} %{{y:{panel.digits}}} "
                f"{panel.unit if panel.scale != 1 or panel.name == 'clips_per_s' else ''}<br>"
                "epoch %{customdata[0]:.2f}, step %{customdata[1]:,}<extra></extra>",
            }
        )  # fmt: skip
    ink, grid = page.INK[theme], GRID[theme]
    line = {"gridcolor": grid, "zeroline": False, "automargin": True, "linecolor": grid}
    layout = {
        "title": {"text": panel.title, "x": 0.02, "xanchor": "left", "font": {"size": 14}},
        "margin": {"l": 54, "r": 14, "t": 38, "b": 44},
        "font": {"color": ink, "size": 11, "family": "system-ui, sans-serif"},
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": line | {"title": {"text": AXES[axis], "standoff": 6}},
        "yaxis": line | {"title": {"text": panel.unit, "standoff": 6}},
        "hovermode": "closest", "uirevision": f"{axis} {stream}",
        "hoverlabel": {"bgcolor": BOX[theme], "font": {"color": ink}, "align": "left"},
    }  # fmt: skip
    if not curves:
        for name in ("xaxis", "yaxis"):
            layout[name] |= {"visible": False}
        words = "<br>".join(textwrap.wrap(panel.empty, 44))
        centre = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False}
        layout["annotations"] = [centre | {"text": words}]
    return {"data": curves, "layout": layout}


def write_row(row: Row) -> list[str]:
    """The cells of one run, in the order of HEADINGS."""
    state = row.state
    if state == STOPPED:
        state = f"stopped, no line for {duration(row.quiet)}"
    return [
        row.name, state, _of(f"{row.step:,}", f"{row.steps:,}" if row.steps else None),
        _of(NONE if row.epoch is None else f"{row.epoch:.1f}", row.epochs),
        _say(row.loss, "{:.3f}"), _say(row.accuracy, "{:.1%}"), _say(row.kept, "{:.1%}"),
        _say(row.knn, "{:.1%}"), _say(row.rate, "{:,.0f}"),
        NONE if row.left is None else duration(row.left),
    ]  # fmt: skip


def _of(part: str, whole: object) -> str:
    return f"{part} of {whole}" if whole else part


def _say(value: float | None, form: str) -> str:
    return NONE if value is None else form.format(value)
