"""Skeletons inside other figures: poses on given axes, views of a clip, an animation as a web page.

Which way up people stand and from where they are seen is `skeletons/plot.py`'s to say.
"""

import html
import json

import jax
import ml_collections
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from halp_jax.errors import UserError
from halp_jax.inspect import page
from halp_jax.skeletons import augment, plot
from halp_jax.skeletons.layout import Layout

Frames = Float[np.ndarray, "time bodies joints xyz"]


def add_poses(
    axes: Axes,
    frames: Frames,
    layout: Layout,
    count: int = 3,
    *,
    turn: float | None = None,
    up: str = "z",
    width: float = 1.0,
    dots: bool = False,
) -> None:
    """`count` poses of a clip side by side, filling the axes; all joints of a clip stay in sight.

    turn, up: see `plot.project`.
    dots: marks every joint, also those whose bone is gone.
    """
    present = plot.find_present(frames, layout)
    flat = plot.project(frames, layout, turn, up)
    (shown,) = np.nonzero(present.any((1, 2)))
    axes.set_axis_off()
    if not len(shown):
        return
    chosen = shown[np.linspace(0, len(shown) - 1, count).round().astype(int)]
    seen = [flat[frame][present[frame]] for frame in chosen]
    low, high = min(p[:, 1].min() for p in seen), max(p[:, 1].max() for p in seen)
    gap = 0.1 * (high - low)
    right = 0.0
    for frame, points in zip(chosen, seen, strict=True):
        offset = np.array([right - points[:, 0].min(), 0.0])
        for body in range(frames.shape[1]):
            place, there = flat[frame, body] + offset, present[frame, body]
            plot.add_body(axes, place, there, layout, body, 0.8 * width)
            if dots:
                axes.plot(*place[there].T, ".", ms=3, color=page.ink(), zorder=3)
        right += float(np.ptp(points[:, 0])) + gap
    # `auto`: who makes the axes wider than the poses is not told that their limits were fixed.
    axes.set_xlim(-gap, right, auto=True)
    axes.set_ylim(low - gap, high + gap, auto=True)
    axes.set_aspect("equal")


def plot_views(
    frames: Frames,
    layout: Layout,
    settings: ml_collections.ConfigDict,
    *,
    seed: int = 0,
    count: int = 8,
    title: str = "",
    up: str = "z",
) -> Figure:
    """A clip and two views of it, as the query and the key encoder would get them.

    They are drawn from the same side, so that a shear shows; joints that a view has set to zero are
    gone, with their bones. `settings`: config.views of a run.
    """
    keys = jax.random.split(jax.random.key(seed))
    views = [
        np.asarray(augment.random_view(key, jax.numpy.asarray(frames), len(frames), settings))
        for key in keys
    ]
    rows = {f"{title or 'the clip'}, {len(frames)} frames": frames}
    rows |= {
        f"{name}: {settings.num_frames} frames of a random part, corrupted": view
        for name, view in zip(("view of the query", "view of the key"), views, strict=True)
    }
    figure = page.make_figure(0.85 * count + 0.4, 5.6)
    for place, (name, clip) in enumerate(rows.items()):
        axes = figure.add_subplot(3, 1, place + 1)
        turn = 0.0 if layout.axes == 3 else None
        add_poses(axes, clip, layout, count, turn=turn, up=up, width=1.2, dots=True)
        axes.set_anchor("W")
        axes.set_title(name, loc="left", fontsize=10)
    return figure


def animate(
    frames: Frames, layout: Layout, title: str = "", *, rate: float = 30.0, up: str = "z"
) -> str:
    """An animation as HTML that needs nothing else: for IPython.display.HTML, or a file."""
    flat, present = plot.project(frames, layout, up=up), plot.find_present(frames, layout)
    seen = flat[present]
    if not len(seen):
        raise UserError("cannot animate a clip without any body; every coordinate of it is zero")
    low, size = seen.min(0), np.ptp(seen, axis=0)
    scale = 260 / max(float(size.max()), 1e-9)
    place = (flat - low) * scale + 20
    place[..., 1] = size[1] * scale + 40 - place[..., 1]
    lines = [
        [
            [*place[t, m, j].round(1).tolist(), *place[t, m, p].round(1).tolist(), m, int(j in layout.left)]
            for m in range(frames.shape[1])
            for j, p in enumerate(layout.parents)
            if j != p and present[t, m, j] and present[t, m, p]
        ]
        for t in range(len(frames))
    ]  # fmt: skip
    fill = {
        "W": int(size[0] * scale + 40), "H": int(size[1] * scale + 40), "MS": round(1000 / rate),
        "LINES": json.dumps(lines, separators=(",", ":")), "COLOURS": json.dumps(plot.BODY_COLOURS),
        "TITLE": html.escape(title, quote=False), "LAST": len(frames) - 1,
    }  # fmt: skip
    text = _PAGE
    for name, value in fill.items():
        text = text.replace(f"@{name}@", str(value))
    return text


# Left limbs are thinner as well as paler, so that the sides differ on any page.
_PAGE = """<div style="font:13px sans-serif"><div>@TITLE@</div>
<canvas width="@W@" height="@H@"></canvas><br>
<button>pause</button> <input type="range" min="0" max="@LAST@" value="0" style="width:200px">
<script>(function(){
const box = document.currentScript.parentElement, pen = box.querySelector("canvas").getContext("2d");
const bar = box.querySelector("input"), button = box.querySelector("button");
const frames = @LINES@, colours = @COLOURS@;
let going = true;
function show(){
  pen.clearRect(0, 0, @W@, @H@); pen.lineCap = "round";
  for (const [x, y, u, v, body, left] of frames[+bar.value]) {
    pen.strokeStyle = colours[body % colours.length]; pen.globalAlpha = left ? 0.55 : 1;
    pen.lineWidth = left ? 2 : 3.5;
    pen.beginPath(); pen.moveTo(x, y); pen.lineTo(u, v); pen.stroke();
  }
}
function play(on){ going = on; button.textContent = on ? "pause" : "play"; }
bar.oninput = function(){ play(false); show(); };
button.onclick = function(){ play(!going); };
setInterval(function(){ if (going) { bar.value = (+bar.value + 1) % frames.length; show(); } }, @MS@);
show();
})();</script></div>"""
