"""Clips as pictures: a strip of poses, a grid of strips with class names.

Plain figures without pyplot, so nothing global is touched and no display is needed. A clip is
[time, bodies, joints, xyz] of any `Layout`. Which axis points up is for the caller to say ("z" of
normalised clips; a data set knows it of its own, `Dataset.up`) and is never read off the clip: a
person who lies or stands on the head is drawn so. People are seen from the front, turned a little, so
that what they do towards the viewer shows as well. Joints at exactly (0, 0, 0) are not drawn
where they stand for "missing", and left limbs are lighter than right ones.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from halp_jax.errors import UserError
from halp_jax.skeletons.layouts_known import Frames, Layout

# Blue, vermilion, green and purple of Okabe and Ito's palette; the first two differ in grey too.
BODY_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_MARGIN = 0.12  # of a person's height, around every pose
_INCHES_HIGH, _TITLE_INCHES, _TIME_INCHES, _GAP = 1.7, 0.35, 0.25, 0.15
_WIDEST = 4.0  # a pose takes at most so many heights
# The axis that points up -> what points to the right of the picture, and towards the viewer.
_VIEWS = {
    "z": ((-1, 0, 0), (0, 1, 0)),  # normalised: x to the right of people, y ahead of them
    "y": ((-1, 0, 0), (0, 0, -1)),  # a Kinect: x to its left, z away from it
    "-y": ((1, 0, 0), (0, 0, -1)),  # a picture: x to the right, y down
}
UPS = tuple(_VIEWS)


def project(
    frames: Frames, layout: Layout, turn: float | None = None, up: str = "z"
) -> Float[np.ndarray, "time bodies joints 2"]:
    """(right, up) coordinates of every joint for a viewer `turn` degrees beside the front.

    The axis `up` points up: "z" of normalised clips, "y" of a Kinect's, or "-y". Without `turn`,
    one person is seen from 30 degrees beside the front, and two from where they stand side by side.
    The origin is midway between the bodies of the frame, so travel is left out.
    Joints in a picture are shown as they lie in it, whatever the turn.
    """
    if frames.ndim != 4 or frames.shape[2:] != (layout.num_joints, 3):
        raise UserError(
            f"cannot draw an array {frames.shape}; give [time, bodies, {layout.num_joints}, 3] "
            f"for {layout.name}"
        )
    if up not in _VIEWS:
        raise UserError(f"cannot draw with {up!r} up; give one of {', '.join(_VIEWS)}")
    if layout.axes == 2:
        up, turn = "-y", 0.0
    right, towards = np.array(_VIEWS[up], np.float64)
    ground = frames @ np.stack([right, towards], -1)
    present = find_present(frames, layout)
    shown = present[..., layout.centre]
    if turn is None:
        together = shown[:, :2].all(1) if frames.shape[1] > 1 else np.zeros(len(frames), bool)
        turn = 30.0
        if together.any():
            apart = (ground[together, 1] - ground[together, 0])[:, layout.centre].mean(0)
            # Of the two sides from which both show, the one that is nearer to the front.
            turn = (np.degrees(np.arctan2(apart[1], apart[0])) + 90) % 180 - 90
    direction = np.array([np.cos(np.radians(turn)), np.sin(np.radians(turn))])
    flat = np.stack([ground @ direction, frames @ np.cross(towards, right)], -1)
    centres = flat[:, :, layout.centre] * shown[..., None]
    middle = centres.sum(1) / np.maximum(shown.sum(1), 1)[:, None]
    return flat - middle[:, None, None]


def find_present(frames: Frames, layout: Layout) -> Bool[np.ndarray, "time bodies joints"]:
    """Which joints are there: not at exactly zero, except the centre of a body that is there."""
    present = frames.any(-1)
    if layout.axes == 3:
        # Normalisation puts the centre joint at zero. Two other joints make a body.
        present[..., layout.centre] |= present.sum(-1) >= 2
    return present


def plot_grid(
    clips: Sequence[np.ndarray],
    names: Sequence[str],
    layout: Layout,
    count: int = 6,
    rate: float = 0.0,
    up: str = "z",
) -> Figure:
    """A strip for every clip [time, bodies, joints, xyz] with its name above, row by row.

    Below each pose stands its time at `rate` frames a second, or without a rate its frame's number.
    `up` is that of `project`.
    """
    strips = [_lay_out(clip, layout, count, up) for clip in clips]
    width = max(strip[2] for strip in strips)
    height = max(strip[3][1] - strip[3][0] for strip in strips)
    # A body that is thrown about must not make the page a mile wide, nor one that lies flat a line.
    height = max(height, width / (_WIDEST * count))
    columns = min(2, len(clips))
    rows = -(-len(clips) // columns)
    # All strips share one scale, so one person is as tall in each of them.
    inches_wide = _INCHES_HIGH * width / height
    page_wide = columns * (inches_wide + _GAP) + _GAP
    page_high = rows * (_INCHES_HIGH + _TITLE_INCHES + _TIME_INCHES) + _GAP
    figure = Figure(figsize=(page_wide, page_high))
    FigureCanvasAgg(figure)
    for place, (name, (flat, present, _, limits, chosen)) in enumerate(
        zip(names, strips, strict=True)
    ):
        row, column = divmod(place, columns)
        left = _GAP + column * (inches_wide + _GAP)
        top = page_high - row * (_INCHES_HIGH + _TITLE_INCHES + _TIME_INCHES) - _TITLE_INCHES
        box = (left / page_wide, (top - _INCHES_HIGH) / page_high)
        # A layout engine would place them as well, but takes longer than all the drawing.
        axes = figure.add_axes((*box, inches_wide / page_wide, _INCHES_HIGH / page_high))
        axes.set(xticks=[], yticks=[])
        slot = width / count
        for position, frame in enumerate(chosen):
            offset = np.array([(position + 0.5) * slot, 0.0])
            for body, (joints, there) in enumerate(zip(flat[frame], present[frame], strict=True)):
                add_body(axes, joints + offset, there, layout, body)
            time = f"{frame / rate:.1f} s" if rate else f"frame {frame}"
            axes.text(offset[0], limits[0], time, ha="center", va="top", fontsize=8)
        axes.set(xlim=(0, width), ylim=(limits[1] - height, limits[1]), aspect="equal")
        axes.set_axis_off()
        axes.set_title(name, loc="left", fontsize=10, parse_math=False)  # names may have a $
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 130) -> Path:
    """Writes the file, and its folder, in the format of its ending (.png, .pdf, .svg) -> its path."""
    path = Path(path).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=dpi, facecolor=figure.get_facecolor())
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another place") from error
    return path


def _lay_out(
    clip: np.ndarray, layout: Layout, count: int, up: str
) -> tuple[np.ndarray, np.ndarray, float, tuple[float, float], np.ndarray]:
    """(projection, present joints, width of the strip, (lowest, highest), frames to show)."""
    flat = project(clip, layout, up=up)
    present = find_present(clip, layout)
    shown = np.flatnonzero(present.any((1, 2)))
    if not len(shown):
        raise UserError("cannot draw a clip without any body; every coordinate of it is zero")
    chosen = shown[np.linspace(0, len(shown) - 1, count).round().astype(int)]
    seen = flat[present]
    low, high = seen[:, 1].min(), seen[:, 1].max()
    pad = _MARGIN * max(high - low, 1e-3)  # all joints may lie in one point
    # Poses are centred in their slots, so the farther side decides.
    slot = 2 * np.abs(flat[chosen][present[chosen]][:, 0]).max() + 2 * pad
    return flat, present, float(slot * count), (float(low - pad), float(high + pad)), chosen


def add_body(
    axes: Axes,
    points: Float[np.ndarray, "joints 2"],
    there: Bool[np.ndarray, " joints"],
    layout: Layout,
    body: int = 0,
    width: float = 1.0,
) -> None:
    """Adds one body of a frame as lines, in the colour of its number; left limbs go towards the paper."""
    paper = np.array(to_rgb(matplotlib.rcParams["axes.facecolor"]))
    colour = np.array(to_rgb(BODY_COLOURS[body % len(BODY_COLOURS)]))
    colour = colour + (0.3 if paper.sum() < 1.5 else 0.0) * (1 - colour)  # on a dark page
    bones = [(j, p) for j, p in enumerate(layout.parents) if j != p and there[j] and there[p]]
    if not bones:
        return
    axes.add_collection(
        LineCollection(
            [points[list(bone)] for bone in bones],
            colors=[(colour + paper) / 2 if bone[0] in layout.left else colour for bone in bones],
            linewidths=width * (2.0 if body == 0 else 1.5),
            capstyle="round",
            label=f"body {body + 1}",
        )
    )
    for head in [j for j, name in enumerate(layout.joints) if "head" in name and there[j]][:1]:
        axes.plot(*points[head], "o", ms=5 * width, mec=colour, mfc=colour if body == 0 else paper)
