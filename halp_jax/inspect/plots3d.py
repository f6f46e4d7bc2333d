"""The sphere in 3-D: anchors, prototypes, geodesics, kept and refused positives, one colour a class.

    scene = project_sphere(run, clips)
    plot_scene_flat(scene)   for papers (matplotlib)      plot_scene(scene)   to turn (plotly)

Three dimensions out of 128, honest by saying so: the projection is linear, keeps the centre where it is,
stretches nothing, and tells how much of the squared length it shows; a point that lies deep inside the
ball is mostly out of sight. Exact similarities along a walk are in `plots.plot_walk`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from halp_jax.core.sphere import angle, slerp_weights
from halp_jax.errors import import_optional
from halp_jax.inspect import page
from halp_jax.inspect.anchors import Inspected, plot_positives

_ARC = 40


class Scene(NamedTuple):
    """What is drawn, in the three dimensions shown; the sphere has radius 1 about the origin."""

    unit: str  # "clip" or "graph", here called clips
    share: float  # of the squared length of clips and prototypes, mean
    class_names: tuple[str, ...]
    clips: Float[np.ndarray, "n 3"]  # all real clips, in the background
    clip_labels: Int[np.ndarray, " n"]
    anchors: Float[np.ndarray, "a 3"]
    anchor_labels: Int[np.ndarray, " a"]
    prototypes: Float[np.ndarray, "m 3"]
    arcs: Float[np.ndarray, "k times 3"]
    positives: Float[np.ndarray, "p 3"]
    positive_labels: Int[np.ndarray, " p"]
    kept: Bool[np.ndarray, " p"]


def project_sphere(
    run: Inspected, clips: Sequence[int], solver: str | None = None, *, count: int = 8
) -> Scene:
    """Several anchors and `count` positives of each, on the three main directions of the clips."""
    everything = np.concatenate([run.anchors, run.prototypes])
    basis = np.linalg.svd(everything, full_matrices=False)[2][:3]  # not centred: the origin stays
    basis = basis.astype(np.float32)
    drawn, arcs = [plot_positives(run, clip, solver, count=count) for clip in clips], []
    for each in drawn:
        for target in np.unique(each.selected) if each.solver != "sphere" else ():
            arcs.append(_walk(run.anchors[each.clip], run.prototypes[target]) @ basis.T)
    return Scene(
        run.unit, float(np.mean(np.sum((everything @ basis.T) ** 2, axis=1))),
        tuple(run.dataset.class_names), run.anchors @ basis.T, run.labels,
        run.anchors[list(clips)] @ basis.T, run.labels[list(clips)], run.prototypes @ basis.T,
        np.array(arcs, np.float32).reshape(-1, _ARC, 3),
        np.concatenate([each.points for each in drawn]) @ basis.T,
        run.labels[np.repeat(clips, count)], np.concatenate([each.kept for each in drawn]),
    )  # fmt: skip


def describe(scene: Scene) -> str:
    """Two lines for above the picture, with the share that keeps it honest."""
    seen = f"{scene.share:.0%} of the squared length of {scene.unit}s and prototypes is seen"
    kept = f"{int(scene.kept.sum())} of {scene.kept.size} positives kept"
    return f"three main directions: {seen}\n{kept}"


def plot_scene_flat(scene: Scene) -> Figure:
    """The scene in matplotlib, seen from above the middle of what is drawn."""
    figure = page.make_figure(7.4, 6.6)
    axes = figure.add_subplot(projection="3d", computed_zorder=False)
    axes.set_proj_type("ortho")
    middle = np.concatenate([scene.anchors, scene.positives]).mean(0)
    height = np.degrees(np.arcsin(middle[2] / max(float(np.linalg.norm(middle)), 1e-9)))
    turn = float(height) + 12.0, float(np.degrees(np.arctan2(middle[1], middle[0]))) + 12.0
    axes.view_init(*turn)
    eye = _direction(*turn)
    for line in _globe():
        shown = np.where((line @ eye > 0)[:, None], line, np.nan)  # the near half alone
        axes.plot(*shown.T, color=page.mute(0.8), lw=0.5, zorder=0)
    styles = page.style_classes(scene.anchor_labels)
    other = page.mute(0.6)
    for label in np.unique(scene.clip_labels):
        colour = styles.get(int(label), (other, ""))[0]
        dots = scene.clips[scene.clip_labels == label]
        axes.scatter(*dots.T, s=7, color=colour, alpha=0.6, lw=0, zorder=1)
    for arc in scene.arcs:
        axes.plot(*arc.T, color=page.mute(0.45), lw=0.6, zorder=2)
    refused = scene.positives[~scene.kept]
    axes.scatter(*refused.T, marker="x", s=22, color=page.ink(), lw=0.8, zorder=4)
    for label, (colour, marker) in styles.items():
        chosen = (scene.positive_labels == label) & scene.kept
        axes.scatter(*scene.positives[chosen].T, s=24, color=colour, marker=marker, lw=0, zorder=5)
        own = scene.anchors[scene.anchor_labels == label]
        axes.scatter(
            *own.T, s=70, color=colour, marker=marker, edgecolor=page.ink(), lw=1.1, zorder=6
        )
    axes.scatter(
        *scene.prototypes.T, s=100, marker="*", color=page.mute(0.9), edgecolor=page.ink(), lw=0.9, zorder=7,
        depthshade=False,
    )  # fmt: skip
    seen = np.concatenate([scene.anchors, scene.prototypes, scene.positives, scene.clips])
    _frame(axes, seen, eye)
    axes.set_axis_off()
    axes.set_title(describe(scene), fontsize=10)
    figure.legend(
        handles=_make_legend(scene, styles), loc="outside lower center", ncols=4, fontsize=8,
        frameon=False,
    )  # fmt: skip
    return figure


def plot_scene(scene: Scene, ink: str = "black", paper: str = "white") -> Any:
    """The scene as a plotly figure, to turn and to point at; `.write_html(file)` keeps it.

    `ink` is the colour of outlines and of refused positives, `paper` that inside prototypes.
    """
    otherwise = ", or plot_scene_flat"
    go = import_optional("plotly.graph_objects", "plotly", "the sphere that turns", otherwise)
    styles = page.style_classes(scene.anchor_labels)
    figure = go.Figure()

    def add(points, name, mode="markers", **look):
        x, y, z = np.asarray(points).T
        hover = {} if "text" in look else {"hoverinfo": "name"}
        figure.add_scatter3d(x=x, y=y, z=z, name=name, mode=mode, **hover, **look)

    gap = np.full((1, 3), np.nan)
    globe = np.concatenate([part for line in _globe() for part in (line, gap)])
    add(globe, "unit sphere", "lines", line={"color": "#c8c8c8", "width": 1})
    colours = [styles.get(int(label), ("#a0a0a0", ""))[0] for label in scene.clip_labels]
    words = [scene.class_names[label] for label in scene.clip_labels]
    look = {"size": 2, "color": colours, "opacity": 0.5}
    add(scene.clips, f"real {scene.unit}s", marker=look, text=words)
    if len(scene.arcs):
        arcs = np.concatenate([part for arc in scene.arcs for part in (arc, gap)])
        add(arcs, "geodesics", "lines", line={"color": "#707070", "width": 2})
    for label, (colour, _) in styles.items():
        name = scene.class_names[label]
        own = scene.anchors[scene.anchor_labels == label]
        look = {"size": 9, "color": colour, "line": {"color": ink, "width": 2}}
        add(own, f"anchor: {name}", marker=look)
        chosen = (scene.positive_labels == label) & scene.kept
        add(scene.positives[chosen], f"kept: {name}", marker={"size": 4, "color": colour})
    refused = scene.positives[~scene.kept]
    add(refused, "refused", marker={"size": 4, "symbol": "x", "color": ink})
    numbers = [f"prototype {number}" for number in range(len(scene.prototypes))]
    look = {"size": 7, "symbol": "diamond", "color": paper, "line": {"color": ink, "width": 2}}
    add(scene.prototypes, "prototypes", marker=look, text=numbers)
    hidden = {"visible": False}
    figure.update_layout(
        title={"text": describe(scene).replace("\n", "<br>"), "font": {"size": 13}},
        scene={"xaxis": hidden, "yaxis": hidden, "zaxis": hidden, "aspectmode": "data"},
        margin={"l": 0, "r": 0, "b": 0, "t": 60}, legend={"itemsizing": "constant"},
    )  # fmt: skip
    return figure


def _walk(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Points on the geodesic between two unit vectors, [_ARC, dim]."""
    t = jnp.linspace(0, 1, _ARC)
    a, b = slerp_weights(t, jnp.full_like(t, angle(jnp.asarray(start @ end))))
    return np.outer(a, start) + np.outer(b, end)


def _globe() -> list[np.ndarray]:
    """Meridians and circles of latitude of the unit sphere."""
    around = np.linspace(0, 360, 73)
    meridians = [_direction(around, azimuth) for azimuth in range(0, 180, 30)]
    return meridians + [_direction(elevation, around) for elevation in range(-60, 90, 30)]


def _direction(elevation, azimuth) -> np.ndarray:
    """Unit vectors [..., 3] of angles in degrees."""
    up, around = np.radians(np.broadcast_arrays(elevation, azimuth))
    return np.stack([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)], -1)


def _frame(axes, seen: np.ndarray, eye: np.ndarray) -> None:
    """Limits that hold what is drawn, and as much of the sphere as lies around it."""
    middle = (seen.max(0) + seen.min(0)) / 2
    flat = seen - middle
    flat = flat - (flat @ eye)[:, None] * eye
    reach = max(float(np.linalg.norm(flat, axis=1).max()), 0.2)
    if reach > 0.6:  # then the whole sphere is hardly larger
        middle, reach = np.zeros(3), 1.0
    half = 0.72 * reach
    limits = zip(("xlim", "ylim", "zlim"), middle - half, middle + half, strict=True)
    axes.set(**{name: (low, high) for name, low, high in limits})
    axes.set_box_aspect((1, 1, 1))


def _make_legend(scene: Scene, styles) -> list[Line2D]:
    ink = page.ink()
    handles = [
        Line2D([], [], marker=m, ls="none", color=c, ms=6, label=page.shorten(scene.class_names[k]))
        for k, (c, m) in styles.items()
    ]
    plain = {"ls": "none", "mfc": page.mute(0.7), "mec": ink}
    return [
        *handles,
        Line2D([], [], marker="o", ms=9, label="anchor", **plain),
        Line2D([], [], marker="*", ms=12, label="prototype", **plain),
        Line2D([], [], marker="o", ms=4, mew=0, ls="none", color=ink, label="positive, kept"),
        Line2D([], [], marker="x", ms=5, ls="none", color=ink, label="positive, refused"),
        Line2D([], [], color=page.mute(0.45), lw=1, label="geodesic"),
        Line2D(
            [], [], marker=".", ms=4, ls="none", color=page.mute(0.6), label=f"real {scene.unit}"
        ),
    ]
