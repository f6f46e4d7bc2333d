"""The view-invariant normalisation of a raw clip: where the camera stood no longer matters.

It follows the pre-normalisation of 2s-AGCN that HaLP's data passes through: fill the frames that a
body is missing from, put the spine of the first body at the origin of every frame, and turn the
clip once so that this body's spine is the z axis and its shoulder line the x axis. The released
code walks over joints in Python; here a clip is four array operations. The second rotation is the
shortest one, so a spine that is not at right angles to the shoulders leaves the z axis a little
again, and only as far as it does the result still depends on the camera.

The released handling of gaps has two accidents, which `as_released=True` reproduces:

* A body that is missing from frame 0 is shifted to the front, so it runs ahead of the other body,
  and its later gaps vanish too. By default only frames in which nobody is seen are taken from the
  front, from all bodies alike, and a body that comes late stays zero until it does.
* In frames without the first body the others keep their camera coordinates, a jump of some metres.
  By default they are centred on where the first body was last seen.

Clips of joints in a picture (`layout.axes` = 2) are centred and scaled instead of turned, see `flat`.
Normalising twice is not the same as once: the second pass turns the clip a little again (2 cm in
the median over real clips, 40 cm at most). `looks_normalized` tells such clips.
"""

import numpy as np
from jaxtyping import Float

from halp_jax.skeletons.flat import centre_and_scale
from halp_jax.skeletons.layout import Layout

# Shorter axes and smaller angles than this (metres, radians) are no reason to turn a clip.
_TINY = 1e-6


def normalize_clip(
    frames: Float[np.ndarray, "time bodies joints xyz"],
    layout: Layout,
    as_released: bool = False,
) -> Float[np.ndarray, "time bodies joints xyz"]:
    """Centred and turned frames of the same shape, float32.

    A joint at exactly (0, 0, 0) counts as missing and stays there. Where the spine or the shoulder
    line cannot be measured (joints missing, or in the same place) that rotation is left out. A clip
    without any body is returned as it is.
    """
    bodies = frames.astype(np.float64).transpose(1, 0, 2, 3)
    bodies = _fill_gaps(bodies, as_released)
    seen = bodies.any(-1)  # [bodies, time, joints]
    if not seen.any():
        return frames.astype(np.float32)
    if layout.axes == 2:
        bodies = centre_and_scale(bodies, layout)
        return bodies.transpose(1, 0, 2, 3).astype(np.float32)
    # The first body, unless it is empty altogether: then nobody would give the directions.
    reference = int(seen.any((1, 2)).argmax())

    centre = bodies[reference, :, layout.centre]  # [time, 3]
    if not as_released:
        centre = _hold(centre)
    bodies = (bodies - centre[:, None]) * seen[..., None]

    needed = [*layout.spine, *layout.shoulders]
    pose = bodies[reference, seen[reference][:, needed].all(1).argmax()]  # [joints, 3]
    for (start, end), axis in ((layout.spine, (0, 0, 1)), (layout.shoulders[::-1], (1, 0, 0))):
        rotation = _rotation_onto(pose[end] - pose[start], np.array(axis, np.float64))
        bodies, pose = bodies @ rotation.T, pose @ rotation.T
    return bodies.transpose(1, 0, 2, 3).astype(np.float32)


def looks_normalized(frames: Float[np.ndarray, "time bodies joints xyz"], layout: Layout) -> bool:
    """Whether a clip has been normalised before: centred in every frame, and turned.

    Of joints in a picture it is always False; to centre and scale them twice changes nothing.
    """
    bodies = frames.transpose(1, 0, 2, 3)
    body = bodies[bodies.any((1, 2, 3)).argmax()]  # [time, joints, 3]
    line = body[:, layout.shoulders[0]] - body[:, layout.shoulders[1]]
    line = line[line.any(-1)]
    if layout.axes == 2 or not len(line) or body[:, layout.centre].any():
        return False
    # Sums and differences of float16 are right to about a thousandth.
    return bool(line[0, 0] > 0 and np.abs(line[0, 1:]).max() <= 5e-3 * line[0, 0] + 1e-3)


def _fill_gaps(
    bodies: Float[np.ndarray, "bodies time joints xyz"], as_released: bool
) -> Float[np.ndarray, "bodies time joints xyz"]:
    """Moves empty frames from the front to the end, then repeats each body to fill its end."""
    seen = bodies.any((2, 3))
    filled = np.zeros_like(bodies)
    for body, present in enumerate(seen):
        visible = np.flatnonzero(present)
        if not len(visible):
            continue
        if as_released and visible[0] > 0:
            moved = bodies[body, visible]
        else:
            moved = bodies[body, seen.any(0).argmax() : visible[-1] + 1]
        begin = int(moved.any((1, 2)).argmax())
        rest = len(bodies[body]) - len(moved)
        filled[body, : len(moved)] = moved
        filled[body, len(moved) :] = moved[begin + np.arange(rest) % (len(moved) - begin)]
    return filled


def _hold(points: Float[np.ndarray, "time xyz"]) -> Float[np.ndarray, "time xyz"]:
    """Every missing (all zero) point replaced by the last one before it, or the first of all."""
    known = points.any(-1)
    last = np.maximum.accumulate(np.where(known, np.arange(len(points)), -1))
    return points[np.where(last < 0, known.argmax(), last)]


def _rotation_onto(
    vector: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"]
) -> Float[np.ndarray, "3 3"]:
    """The shortest rotation that turns `vector` to the unit vector `target` (Rodrigues' formula).

    The identity where it is not defined: a vector of no length, or one that points away exactly.
    """
    length = np.linalg.norm(vector)
    axis = np.cross(vector, target)
    if not np.isfinite(length) or length < _TINY or np.abs(axis).sum() < _TINY:
        return np.eye(3)
    x, y, z = axis / np.linalg.norm(axis)
    angle = np.arccos(np.clip(vector @ target / length, -1.0, 1.0))
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross)
