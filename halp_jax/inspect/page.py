"""How figures of this room look: colours that differ in grey, on the page of matplotlib's style.

    with matplotlib.style.context("dark_background"):
        figure = plots.plot_walk(run, path)
    save(figure, "walk.png")

Okabe and Ito's palette; wherever two things must be told apart, marker, dash or hatch differ too.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from halp_jax.skeletons import plot

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, ORANGE = "#56B4E9", "#E69F00"
MARKERS = ("o", "s", "^", "D", "v", "P", "h", "X", "<", ">", "p", "*", "d", "H", "8")
DASHES = ("-", "--", "-.", ":")
INK = {"light": "#1a1a1a", "dark": "#e8e8e8"}
PAPER = {"light": "white", "dark": "#16181c"}
save = plot.save_figure


def make_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; without pyplot, so that nothing global holds on to it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def ink() -> str:
    """The colour of text on this page; of marks that others call black."""
    return matplotlib.rcParams["text.color"]


def mute(share: float = 0.6) -> tuple[float, float, float]:
    """`share` of the way from ink to paper: lines in the background."""
    ends = to_rgb(ink()), to_rgb(matplotlib.rcParams["figure.facecolor"])
    return tuple((1 - share) * a + share * b for a, b in zip(*ends, strict=True))


def style_classes(labels: Int[np.ndarray, " n"] | Sequence[int]) -> dict[int, tuple[str, str]]:
    """A (colour, marker) for every class, another pair each up to 105 of them."""
    colours = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE, ink())
    styles = {}
    for order, label in enumerate(np.unique(labels)):
        lap, step = divmod(order, len(colours))
        styles[int(label)] = (colours[step], MARKERS[(step + lap) % len(MARKERS)])
    return styles


def shorten(name: str, length: int = 22) -> str:
    """A class name that fits beside its neighbours."""
    return name if len(name) <= length else name[: length - 1].rstrip(" ,") + "…"
