"""What HaLP hallucinates, on the sphere seen from far away.

Anchors, prototypes, geodesics and positives, projected on two principal components; the title says how much of
the spread that plane holds, since the rest of the dimensions is not seen. Plain numpy arrays go in (unit
vectors), a figure comes out; nothing is computed that the method itself computes, so a picture cannot
hide a mistake in it.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from halp_jax.core.sphere import angle, slerp_weights
from halp_jax.errors import UserError
from halp_jax.inspect import page

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

    figure = page.make_figure(8.2, 6.4)
    axes = figure.add_subplot()
    styles, times = page.style_classes(nearest), jnp.linspace(0, 1, _ARC_POINTS)
    for anchor, draws, keeps, targets, home in zip(
        anchors, positives, kept, selected, nearest, strict=True
    ):
        colour, marker = styles[int(home)]
        for target in np.unique(targets):
            omega = angle(jnp.full_like(times, anchor @ prototypes[target]))
            a, b = slerp_weights(times, omega)
            arc = (np.outer(a, anchor) + np.outer(b, prototypes[target]) - centre) @ plane
            axes.plot(*arc.T, color=page.mute(0.65), lw=0.6, zorder=1)
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
        Line2D([], [], color=page.mute(0.65), lw=1, label="geodesic to a prototype"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    _number_points(figure, axes, flat)
    return figure


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
