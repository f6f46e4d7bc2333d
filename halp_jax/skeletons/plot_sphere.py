"""What HaLP hallucinates, as pictures: the sphere from far away, and one great circle exactly.

`plot_sphere` shows anchors, prototypes, geodesics and positives projected on two principal
components; its title says how much of the spread that plane holds, since the rest of the
dimensions is not seen. `plot_great_circle` leaves nothing out: along the geodesic from one anchor
to one prototype it shows the similarity to every prototype, so t* is where two curves cross.

Plain numpy arrays go in (unit vectors), a figure comes out; nothing is computed that the method
itself computes, so a picture cannot hide a mistake in it.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from halp_jax.errors import UserError

# Okabe and Ito's palette without yellow. Colour and marker count up together, so that seven times
# seven prototypes stay apart, and seven do in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "h")  # no cross: that is a refused positive
_GREY = "0.65"
_ARC_POINTS = 48


def plot_sphere(
    anchors: Float[np.ndarray, "anchors dim"],
    prototypes: Float[np.ndarray, "prototypes dim"],
    positives: Float[np.ndarray, "anchors draws dim"],
    kept: Bool[np.ndarray, "anchors draws"],
    selected: Int[np.ndarray, "anchors draws"],
    title: str = "Hallucinated positives",
) -> Figure:
    """Anchors, their geodesics to the selected prototypes, and the positives drawn on these.

    Args:
        anchors: keys z_k, unit vectors.
        prototypes: unit vectors; they are numbered in the picture.
        positives: hallucinated unit vectors, one for each anchor and draw.
        kept: whether the rank filter keeps a positive (all of them, for the geodesic solver).
        selected: the prototype that each positive was drawn towards (pairwise, geodesic solver).

    Colour and marker of a point are those of the prototype nearest to its anchor.
    """
    points = np.concatenate([anchors, prototypes, positives.reshape(-1, anchors.shape[1])])
    if not np.isfinite(points).all():
        raise UserError("cannot draw points that are NaN or infinite; look at the loss first")
    nearest = (anchors @ prototypes.T).argmax(1)
    # Anchors and prototypes span the picture; positives lie between them and would only add weight.
    base = np.concatenate([anchors, prototypes])
    centre = base.mean(0)
    _, sizes, directions = np.linalg.svd(base - centre, full_matrices=False)
    share = sizes**2 / max(float((sizes**2).sum()), 1e-30)
    plane = directions[:2].T

    figure, axes = _make_axes(6.4)
    styles, times = _give_styles(nearest), np.linspace(0, 1, _ARC_POINTS)
    for anchor, draws, keeps, targets, home in zip(
        anchors, positives, kept, selected, nearest, strict=True
    ):
        colour, marker = styles[int(home)]
        for target in np.unique(targets):
            arc = (_walk_geodesic(anchor, prototypes[target], times) - centre) @ plane
            axes.plot(*arc.T, color=_GREY, lw=0.6, zorder=1)
        flat = (draws - centre) @ plane
        axes.plot(*flat[~keeps].T, "x", color="0.35", ms=4, mew=0.8, zorder=3)
        axes.plot(
            *flat[keeps].T, marker, color=colour, ms=5, mew=0, alpha=0.75, zorder=4, ls="none"
        )
        place = (anchor - centre) @ plane
        axes.plot(*place, marker, color=colour, ms=10, mec="black", mew=1.2, zorder=5)
    flat = (prototypes - centre) @ plane
    for number, place in enumerate(flat):
        colour = styles.get(number, ("white", ""))[0]
        axes.plot(*place, "*", color=colour, ms=17, mec="black", mew=0.9, zorder=6)
    axes.set(
        xlabel=f"first principal component ({share[0]:.0%} of the spread)",
        ylabel=f"second principal component ({share[1]:.0%})",
        aspect="equal",
    )
    axes.set_adjustable("datalim")
    axes.margins(0.1)
    axes.set_title(
        f"{title}: {int(kept.sum())} of {kept.size} kept\n"
        f"this plane shows {share[:2].sum():.0%} of the spread in {anchors.shape[1]} dimensions",
        fontsize=11,
    )
    legend = [
        Line2D([], [], marker="o", ls="none", mfc="0.8", mec="black", ms=10, label="anchor"),
        Line2D([], [], marker="*", ls="none", mfc="0.8", mec="black", ms=15, label="prototype"),
        Line2D([], [], marker="o", ls="none", mfc="0.4", mew=0, ms=4, label="positive, kept"),
        Line2D([], [], marker="x", ls="none", color="0.35", ms=4, label="positive, filtered out"),
        Line2D([], [], color=_GREY, lw=1, label="geodesic to a prototype"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    _number_points(figure, axes, flat)
    return figure


def plot_great_circle(
    anchor: Float[np.ndarray, " dim"],
    prototypes: Float[np.ndarray, "prototypes dim"],
    selected: int,
    t_star: float,
    drawn: tuple[float, float],
    title: str = "Along one geodesic",
) -> Figure:
    """sim(z(t), P_j) for all prototypes j on the great circle from an anchor to one prototype.

    Args:
        anchor: z_k, a unit vector. P*, the prototype nearest to it, is found here.
        prototypes: unit vectors.
        selected: which of them the geodesic leads to (P_sel).
        t_star: where the solver says the feasible part ends; marked.
        drawn: (lowest, highest) t that positives are drawn from; shaded.
    """
    home = int((prototypes @ anchor).argmax())
    where = np.linspace(0, 1, 401)
    similarities = _walk_geodesic(anchor, prototypes[selected], where) @ prototypes.T
    # Usually the rival whose tie ends the feasible part, and with the pairwise solver P_sel or
    # whoever has overtaken P* on the way there.
    at_star = _walk_geodesic(anchor, prototypes[selected], np.array([t_star]))[0]
    others = [j for j in range(len(prototypes)) if j != home]
    rival = others[int((prototypes[others] @ at_star).argmax())] if others else home

    figure, axes = _make_axes(5.0)
    axes.axvspan(
        *drawn, color="0.86", lw=0, zorder=0,
        label=f"positives are drawn here: t from {drawn[0]:.2f} to {drawn[1]:.2f}",
    )  # fmt: skip
    plain = [j for j in others if j not in (selected, rival)]
    for number, j in enumerate(plain):
        label = None if number else f"the other {len(plain)} prototypes"
        axes.plot(where, similarities[:, j], color=_GREY, lw=0.8, zorder=1, label=label)

    def draw(number: int, style: str, colour: str, width: float, what: str) -> None:
        label = f"prototype {number}{what}"
        axes.plot(where, similarities[:, number], style, color=colour, lw=width, label=label)

    if rival not in (selected, home):
        draw(rival, "-.", _COLOURS[2], 2.0, ": highest rival at t*")
    ends = ", highest rival at t*" if rival == selected else ""
    draw(selected, "--", _COLOURS[1], 2.0, f", P_sel: where the geodesic ends{ends}")
    draw(home, "-", _COLOURS[0], 2.4, ", P*: nearest to the anchor")
    axes.axvline(t_star, color="black", lw=1.1, ls=":", label=f"t* = {t_star:.3f}")
    axes.plot(t_star, prototypes[home] @ at_star, "o", ms=7, mfc="white", mec="black", zorder=5)
    angle = np.degrees(np.arccos(np.clip(anchor @ prototypes[selected], -1, 1)))
    axes.set(
        xlabel=f"t: 0 at the anchor, 1 at prototype {selected}, {angle:.0f} degrees away",
        ylabel="similarity sim(z(t), P_j)",
        xlim=(0, 1),
    )
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def _make_axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.2, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _walk_geodesic(start: np.ndarray, end: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Points [times, dim] on the shorter great circle between unit vectors."""
    angle = np.arccos(np.clip(start @ end, -1, 1))
    if np.sin(angle) < 1e-6:  # the same point, or opposite ones, which no single arc joins
        return np.repeat(start[None], len(times), 0)
    return (
        np.sin((1 - times[:, None]) * angle) * start + np.sin(times[:, None] * angle) * end
    ) / np.sin(angle)


def _give_styles(nearest: np.ndarray) -> dict[int, tuple[str, str]]:
    """A (colour, marker) for every prototype that some anchor is nearest to."""
    styles = {}
    for order, prototype in enumerate(np.unique(nearest)):
        lap, step = divmod(order, len(_COLOURS))
        styles[int(prototype)] = (_COLOURS[step], _MARKERS[(step + lap) % len(_MARKERS)])
    return styles


def _number_points(figure: Figure, axes: Axes, places: np.ndarray) -> None:
    """Writes the number of every point beside it, pushing apart what would overlap."""
    figure.canvas.draw()  # fixes the scale of the axes
    to_pixels = axes.transData
    pixel = figure.dpi / 72
    points = to_pixels.transform(places)
    out = points - points.mean(0)
    out = out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
    labels = points + 13 * pixel * out
    radius = 13 * pixel
    for _ in range(80):
        for obstacles, same in ((labels, True), (points, False)):
            apart = labels[:, None] - obstacles[None]
            distance = np.linalg.norm(apart, axis=-1)
            if same:
                np.fill_diagonal(distance, np.inf)
            close = distance < radius
            # Two labels in one place have no direction to part in: use that of their index.
            turn = np.arange(len(labels))
            spare = np.stack([np.cos(turn), np.sin(turn)], -1)[:, None]
            direction = np.where(
                distance[..., None] > 1e-6, apart / np.maximum(distance, 1e-6)[..., None], spare
            )
            push = np.where(close, radius - np.where(close, distance, 0), 0)[..., None] * direction
            labels = labels + 0.5 * push.sum(1)
    back = to_pixels.inverted()
    for number, (label, point) in enumerate(zip(labels, places, strict=True)):
        axes.annotate(
            str(number), xy=point, xytext=back.transform(label), ha="center", va="center",
            fontsize=8, zorder=8, fontweight="bold",
            bbox={"boxstyle": "round,pad=0.08", "fc": "white", "ec": "none", "alpha": 0.7},
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "0.3", "shrinkA": 0},
        )  # fmt: skip
