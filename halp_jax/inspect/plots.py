"""The pictures of HaLP in matplotlib: a walk and the clips or graphs along it, positives, classes, history.

Each takes what `anchors`, `classes` or `history` returned and gives a figure; `page` says how it looks
and saves it.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from halp_jax.inspect import graph_plots, page
from halp_jax.inspect.anchors import Drawn, Inspected, Walk, cluster_prototypes, read_clips
from halp_jax.inspect.anchors import walk as take_walk
from halp_jax.inspect.classes import KeepClass
from halp_jax.inspect.history import History
from halp_jax.inspect.strips import add_poses

_SOLVER_COLOURS = {"pairwise": page.VERMILION, "geodesic": page.BLUE, "sphere": page.GREEN}
_SAME, _OTHER = page.BLUE, page.ORANGE
_STOPS = 7  # clips shown below a walk


def explore(
    run: Inspected, clip: int, solver: str, lam: float, num_prototypes: int, t: float
) -> Figure:
    """The walk of one clip for sliders: other lambda, other number of prototypes, one t looked at."""
    if num_prototypes != len(run.prototypes):
        run = cluster_prototypes(run, num_prototypes)
    return plot_walk(run, take_walk(run, clip, solver=solver, lam=lam), at=t)


def plot_walk(run: Inspected, walk: Walk, at: float | None = None) -> Figure:
    """What a hallucinated positive is: sim(z(t), P_j) along t, and below it the nearest real clips, or graphs.

    The bar under the curves and the frames of the clips say whether that clip has the anchor's class.
    `at`: one t to say more of.
    """
    stops = np.linspace(0, len(walk.t) - 1, _STOPS).round().astype(int)
    near = [int(place) for place in walk.neighbour[stops]]
    draw = _make_drawing(run, [walk.clip, *near])
    label = run.labels[walk.clip]
    figure = page.make_figure(9.0, 6.6)
    grid = figure.add_gridspec(3, _STOPS, height_ratios=(0.8, 2.6, 0.7))
    top = figure.add_subplot(grid[0, :])
    draw(top, 0, 10)
    top.set_anchor("W")
    top.set_title(f"the anchor: {run.names[walk.clip]}", loc="left", fontsize=10)
    curves = figure.add_subplot(grid[1, :])
    _add_curves(curves, run, walk)
    if at is not None:
        step = int(np.abs(walk.t - at).argmin())
        curves.axvline(walk.t[step], color=page.PURPLE, lw=2, ls="-.")
        figure.suptitle(_describe(run, walk, step), fontsize=10)
    for column, (stop, place) in enumerate(zip(stops, near, strict=True)):
        axes = figure.add_subplot(grid[2, column])
        draw(axes, 1 + column)
        same = run.labels[place] == label
        axes.set_axis_on()
        axes.set(xticks=[], yticks=[], adjustable="datalim")
        for spine in axes.spines.values():
            spine.set(color=_SAME if same else _OTHER, lw=2, ls="-" if same else (0, (3, 2)))
        name = page.shorten(run.names[place], 16)
        axes.set_title(f"t = {walk.t[stop]:.2f}", fontsize=8, pad=3)
        axes.set_xlabel(f"{name}\nsim {walk.closeness[stop]:.2f}", fontsize=8, labelpad=3)
    return figure


def _make_drawing(run: Inspected, places: Sequence[int]) -> Callable[..., None]:
    """-> draw(axes, i, count=0): clip i of these as `count` poses, by default few; or graph i."""
    if run.unit == "graph":
        return lambda axes, i, *_: graph_plots.add_graph(
            axes, run.dataset, int(run.clips[places[i]])
        )
    clips, layout, up = read_clips(run, places), run.dataset.layout, run.dataset.up

    def draw_clip(axes, i, count=0):
        few = 2 if clips[i].any((0, 2, 3)).sum() > 1 else 3  # of two people fewer
        width = 1.0 if count else 0.8
        add_poses(axes, clips[i], layout, count or few, up=up, width=width)

    return draw_clip


def _describe(run: Inspected, walk: Walk, step: int) -> str:
    """One t in words."""
    similar = walk.similarities[step]
    rank = 1 + int((similar > similar[walk.nearest] + 1e-5).sum())
    given_up = walk.similarities[0, walk.nearest] - similar[walk.nearest]
    return (
        f"t = {walk.t[step]:.2f}, {np.degrees(walk.t[step] * walk.omega):.0f}° from the anchor: P* is "
        f"number {rank}\n{given_up:.2f} of its similarity given up; nearest {run.unit}: "
        f"{page.shorten(run.names[walk.neighbour[step]])} ({walk.closeness[step]:.2f})"
    )


def _add_curves(axes, run: Inspected, walk: Walk) -> None:
    at = walk.similarities
    low, high = float(at.min()), float(max(at.max(), walk.closeness.max()))
    step = 1 / (_STOPS - 1)
    for j in range(at.shape[1]):
        if j not in (walk.nearest, walk.selected):
            axes.plot(walk.t, at[:, j], color=page.mute(0.65), lw=0.7, zorder=1)
    if at.shape[1] > 2:
        axes.plot([], [], color=page.mute(0.65), lw=0.7, label="the other prototypes")
    if walk.selected != walk.nearest:
        axes.plot(
            walk.t, at[:, walk.selected], "--", color=page.VERMILION, lw=2,
            label=f"P_sel (prototype {walk.selected}), {np.degrees(walk.omega):.0f}° away",
        )  # fmt: skip
    axes.plot(
        walk.t, at[:, walk.nearest], color=page.BLUE, lw=2.4,
        label=f"P* (prototype {walk.nearest})",
    )  # fmt: skip
    axes.plot(
        walk.t, walk.closeness, ":", color=page.ink(), lw=1.6, label=f"the nearest real {run.unit}"
    )
    axes.axvspan(*walk.drawn, color=page.mute(0.85), lw=0, zorder=0, label="positives drawn here")
    axes.axvline(walk.t_star, color=page.ink(), lw=1, label=f"t* = {walk.t_star:.2f}")
    same = run.labels[walk.neighbour] == run.labels[walk.clip]
    floor, bar = low - 0.13 * (high - low), 0.06 * (high - low)
    half = (walk.t[1] - walk.t[0]) / 2
    edges = [0, *(np.flatnonzero(np.diff(walk.neighbour)) + 1), len(walk.t)]
    for begin, end in zip(edges[:-1], edges[1:], strict=True):
        axes.broken_barh(
            [(walk.t[begin] - half, walk.t[end - 1] - walk.t[begin] + 2 * half)], (floor, bar),
            facecolor=_SAME if same[begin] else _OTHER, hatch=None if same[begin] else "////",
            edgecolor=page.mute(1.0), lw=0.8,
        )  # fmt: skip
    axes.text(
        -step / 2 + 0.005, floor + bar * 1.15,
        f"class of the nearest {run.unit}: the anchor's (plain) or another (hatched)",
        fontsize=7.5, va="bottom", zorder=6,
        bbox={"fc": page.mute(1.0), "ec": "none", "alpha": 0.8, "pad": 1},
    )  # fmt: skip
    axes.set(
        xlim=(-step / 2, 1 + step / 2), ylim=(floor - 0.5 * bar, high + 0.05 * (high - low)),
        xlabel=f"t: 0 at the anchor, 1 at {walk.target} (solver {walk.solver})",
        ylabel="similarity (cosine) to z(t)",
    )  # fmt: skip
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def plot_solvers(run: Inspected, drawn: Sequence[Drawn]) -> Figure:
    """Positives of one anchor under several solvers: what each gives up, and which rank P* has left."""
    figure = page.make_figure(8.4, 3.6)
    left, right = figure.subplots(1, 2)
    for row, each in enumerate(drawn):
        colour = _SOLVER_COLOURS[each.solver]
        jitter = row + 0.5 * (np.random.default_rng(0).random(len(each.t)) - 0.5)
        left.plot(
            each.given_up[each.kept], jitter[each.kept], "o", ms=4, mew=0, alpha=0.6, color=colour
        )
        left.plot(each.given_up[~each.kept], jitter[~each.kept], "x", ms=4, color=page.ink())
        left.plot([each.given_up.mean()] * 2, [row - 0.33, row + 0.33], color=page.ink(), lw=1.5)
        shares = np.bincount(np.minimum(each.rank, 4), minlength=5)[1:] / len(each.rank)
        right.bar(
            np.arange(4) + 0.27 * (row - (len(drawn) - 1) / 2), 100 * shares, 0.25,
            color=colour, hatch=("", "//", "..")[row % 3], edgecolor=page.mute(1.0),
            label=each.solver,
        )  # fmt: skip
    left.set(
        yticks=range(len(drawn)), yticklabels=[each.solver for each in drawn],
        xlabel="similarity to P* given up (cosine, log beyond ±0.1); bar: mean",
    )  # fmt: skip
    left.set_xscale("symlog", linthresh=0.1)
    left.set_xlim(-0.12, 2.2)
    left.set_xticks([-0.1, 0, 0.1, 1], ["−0.1", "0", "0.1", "1"])
    left.set_title("crosses: refused by the rank filter", fontsize=9)
    right.set(
        xticks=range(4), xticklabels=["1st", "2nd", "3rd", "later"],
        xlabel="rank of P* at the positive", ylabel="positives (%)", ylim=(0, 105),
    )  # fmt: skip
    right.legend(fontsize=8, frameon=False)
    name = run.names[drawn[0].clip]
    figure.suptitle(f"{len(drawn[0].t)} positives of one {run.unit} ({name})", fontsize=11)
    return figure


def plot_matrix(
    matrix: Float[np.ndarray, "rows columns"],
    names: Sequence[str],
    *,
    rows: str,
    columns: str,
    title: str = "",
) -> Figure:
    """A table of shares in grey: of classes by classes, each row adding up to 1."""
    count = len(names)
    size = max(4.6, 0.34 * count + 2.4)
    figure = page.make_figure(size + 0.6, size)
    axes = figure.add_subplot()
    dark = sum(page.mute(1.0)) < 1.5  # red, green and blue of the page
    shades = "gray" if dark else "gray_r"
    image = axes.imshow(100 * matrix, cmap=shades, vmin=0, vmax=100)
    short = [page.shorten(name) for name in names]
    axes.set(
        xticks=range(count), yticks=range(count), yticklabels=short, xlabel=columns, ylabel=rows
    )
    axes.set_xticklabels(short, rotation=45, ha="right", rotation_mode="anchor")
    axes.tick_params(labelsize=8)
    if count <= 20:
        for (row, column), share in np.ndenumerate(matrix):
            if share >= 0.045:
                behind = page.mute(1.0) if share > 0.5 else page.ink()
                axes.text(
                    column, row, f"{100 * share:.0f}",
                    ha="center", va="center", fontsize=7, color=behind,
                )  # fmt: skip
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the row (%)")
    axes.set_title(title, fontsize=10)
    return figure


def plot_classes(run: Inspected, kept: KeepClass) -> Figure:
    """Which classes the positives of a class land in."""
    title = (
        f"{kept.solver}, {kept.draw} draw, λ = {kept.lam:g}: "
        f"{100 * kept.share:.0f} % keep their class\n"
        f"(no walk: {100 * kept.at_anchor:.0f} %, exchanged at random: {100 * kept.floor:.0f} %)"
    )
    return plot_matrix(
        kept.matrix, run.dataset.class_names,
        rows="class of the anchor", columns=f"class of the real {run.unit} nearest to the positive",
        title=title,
    )  # fmt: skip


def plot_keep_along(along: dict[str, list[KeepClass]]) -> Figure:
    """Share of positives that keep their class against t / t*, a curve a solver; from `keep_along`."""
    figure = page.make_figure(6.4, 4.2)
    axes = figure.add_subplot()
    for order, (solver, points) in enumerate(along.items()):
        at = [each.lam for each in points]
        axes.plot(
            at, [100 * each.share for each in points], page.DASHES[order] + page.MARKERS[order],
            color=_SOLVER_COLOURS[solver], ms=5, lw=1.8, label=solver,
        )  # fmt: skip
    first = next(iter(along.values()))
    axes.axhline(
        100 * first[0].at_anchor, color=page.ink(), lw=1, ls=(0, (1, 2)), label="no walk at all"
    )
    axes.axhline(100 * first[0].floor, color=page.mute(0.5), lw=1.2, label="exchanged at random")
    axes.set(
        xlabel="share of the feasible walk, t / t*", xlim=(-0.02, 1.02), ylim=(0, None),
        ylabel="positives that keep their class (%)",
    )  # fmt: skip
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.25)
    return figure


def plot_history(history: History) -> Figure:
    """t*, kept share, prototypes in use, alignment, uniformity and contrast over the epochs."""
    words = {
        "t_star": "t* (share of the way to P_sel)", "kept": "positives kept (share)",
        "not_argmin": "walks whose end is no minimum (share)",
        "prototypes_used": "prototypes in use", "alignment": "alignment (squared distance)",
        "uniformity": "uniformity (log)",
    }  # fmt: skip
    figure = page.make_figure(9.6, 5.2)
    colours = (page.BLUE, page.VERMILION, page.GREEN)
    for place, (name, word) in enumerate(words.items()):
        axes = figure.add_subplot(2, 3, place + 1)
        for order, (stream, row) in enumerate(
            zip(history.streams, history.figures[name], strict=True)
        ):
            axes.plot(
                history.epoch, row, page.DASHES[order], color=colours[order], lw=1.6, label=stream
            )
        if np.isnan(history.figures[name]).all():
            axes.text(0.5, 0.5, "not reported", ha="center", transform=axes.transAxes, fontsize=8)
        if history.halp_from is not None:
            axes.axvline(history.halp_from, color=page.mute(0.4), lw=0.9)
        axes.set_xlim(0, np.nanmax(history.epoch))
        axes.set_title(word, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
        axes.tick_params(labelsize=8)
        if name in ("t_star", "kept", "not_argmin"):
            axes.set_ylim(0, 1.03)
        if place == 0 and len(history.streams) > 1:
            axes.legend(fontsize=7.5, frameon=False)
    since = history.halp_from
    note = "HaLP is not on" if since is None else f"the line: HaLP comes on at epoch {since:.0f}"
    figure.suptitle(f"over training ({note})", fontsize=11)
    return figure
