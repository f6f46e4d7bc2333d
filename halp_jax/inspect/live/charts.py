"""The curves and the table's cells of the live page, as plain data: no Dash in here.

A run keeps its colour and its dash everywhere. Themes: "light" and "dark".
"""

import base64
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from halp_jax.inspect import page
from halp_jax.inspect.live import rows
from halp_jax.inspect.live.files import Run
from halp_jax.progress import duration

COLOURS = (page.BLUE, page.VERMILION, page.GREEN, page.PURPLE, page.SKY, page.ORANGE)
DASHES = {
    "solid": "",
    "dash": "9 5",
    "dashdot": "9 4 2 4",
    "dot": "2 4",
}  # name: strokes of an SVG line
GRID = {"light": "#e3e5e8", "dark": "#33373d"}
BOX = {"light": "#ffffff", "dark": "#22262b"}
AXES = {"epoch": "epoch", "step": "step (batches)"}
NONE = "–"
HEADINGS = (
    "run", "state", "step", "epoch", "loss", "contrast accuracy", "positives kept",
    "1-NN accuracy", "clips/s", "time left",
)  # fmt: skip


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
        series = rows.read_series(run, panel.name, stream)
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


def write_row(row: rows.Row) -> list[str]:
    """The cells of one run, in the order of HEADINGS."""
    state = row.state
    if state == rows.STOPPED:
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
