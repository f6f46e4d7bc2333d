"""Where the camera stood no longer matters: a raw clip centred in every frame and turned upright once.

The centre joint of the first body becomes the origin of every frame. One rotation a clip then stands
this body's spine on the z axis and turns its shoulder line (left to right) into the half-plane y = 0,
x > 0, so that people face along +y: one orthonormal frame, the same for every rotation of the camera.
The spine and the shoulder line are those of the first frame that shows them; where the shoulders of
that frame lie on one point or along the spine, the nearest frame in which they do not gives their line.
A clip that was centred, or centred and turned, by somebody else ends in the same frame as a raw one.

`view_clip` is the older rotation, that of 2s-AGCN on whose clips HaLP was trained: the shortest one
that turns the spine to z, then the shortest one that turns the shoulder line to x. The second tilts the
spine again unless both are at right angles, and its axis is arbitrary for a line near -x: a person who
is seen from behind may end on the side or the head. `as_released` also reproduces two accidents of the
released code:

* A body that is missing from frame 0 is shifted to the front, so it runs ahead of the other body,
  and its later gaps vanish too. By default only frames in which nobody is seen are taken from the
  front, from all bodies alike, and a body that comes late stays zero until it does.
* In frames without the first body the others keep their camera coordinates, a jump of some metres.
  By default they are centred on where the first body was last seen.

Clips of joints in a picture (`layout.axes` = 2) are centred and scaled instead of turned, see `flat`.
`looks_normalized` tells clips that have been through here before.
"""

import numpy as np
from jaxtyping import Bool, Float

from halp_jax.skeletons.flat import centre_and_scale, hold_points
from halp_jax.skeletons.layouts_known import Frames, Layout

Bodies, Seen = Float[np.ndarray, "bodies time joints xyz"], Bool[np.ndarray, "bodies time joints"]
Body, BodySeen = Float[np.ndarray, "time joints xyz"], Bool[np.ndarray, "time joints"]
Lines = Float[np.ndarray, "time xyz"]
# Shorter axes and smaller angles than this (metres, radians) are no reason to turn a clip.
_TINY = 1e-6
# Directions of float16 joints are right to this.
_FLOAT16 = 5e-3
# Lines shorter than this share of what most of them reach give no direction, only noise.
_COLLAPSED = 0.25
_AWAY = np.array((0.0, 0.0, 3.0))  # from an origin at which a joint would count as missing


def normalize_clip(frames: Frames, layout: Layout) -> Frames:
    """Centred, upright frames of the same shape, float32.

    A joint at exactly (0, 0, 0) counts as missing and stays there, unless somebody has made it the origin
    of every frame, as hips often are. Where the spine cannot be measured
    in any frame (joints missing, or in the same place), z stays up; where the shoulder line cannot,
    the clip is not turned about z. A clip without any body is returned as it is.

    Args:
        frames: metres, in any orthonormal frame of a camera or a room.
        layout: names the centre, the spine and the shoulders.
    """
    bodies, seen = _centre(_uncover(frames, layout), layout)
    if layout.axes == 3 and seen.any():
        first = _reference(seen)
        bodies = bodies @ _upright_rotation(bodies[first], seen[first], layout).T
    return bodies.transpose(1, 0, 2, 3).astype(np.float32)


def view_clip(frames: Frames, layout: Layout, as_released: bool = False) -> Frames:
    """The same with the two shortest rotations of 2s-AGCN (`normalize=view` and `released`).

    Where the spine or the shoulder line cannot be measured that rotation is left out.
    """
    bodies, seen = _centre(frames, layout, as_released)
    if layout.axes == 3 and seen.any():
        first, spine = _reference(seen), layout.view_spine or layout.spine
        pose = bodies[first, seen[first][:, [*spine, *layout.shoulders]].all(1).argmax()]
        for (start, end), axis in ((spine, (0, 0, 1)), (layout.shoulders[::-1], (1, 0, 0))):
            rotation = _rotation_onto(pose[end] - pose[start], np.array(axis, np.float64))
            bodies, pose = bodies @ rotation.T, pose @ rotation.T
    return bodies.transpose(1, 0, 2, 3).astype(np.float32)


def looks_normalized(frames: Frames, layout: Layout) -> str:
    """What a clip has been normalised by before: "upright", "view" (or released), or "" if it is raw.

    Such a clip is centred in every frame; its first whole frame stands on the axes. Of joints in a
    picture it is always ""; to centre and scale them twice changes nothing.
    """
    bodies = frames.transpose(1, 0, 2, 3)
    body = bodies[bodies.any((1, 2, 3)).argmax()].astype(np.float64)  # [time, joints, 3]
    seen = body.any(-1)
    if layout.axes == 2 or seen[:, layout.centre].any():
        return ""
    seen[:, layout.centre] = seen.any(1)
    right, left = layout.shoulders
    if seen[:, [*layout.spine, right, left]].all(1).any():
        turn = _upright_rotation(body, seen, layout)
        if np.abs(turn - np.eye(3)).max() < _FLOAT16:
            return "upright"
    line = body[:, right] - body[:, left]
    line = line[line.any(-1)]
    if not len(line):
        return ""
    # Sums and differences of float16 are right to about a thousandth.
    turned = line[0, 0] > 0 and np.abs(line[0, 1:]).max() <= _FLOAT16 * line[0, 0] + 1e-3
    return "view" if turned else ""


def _uncover(frames: Frames, layout: Layout) -> Frames:
    """The frames moved, if a joint of a body is (0, 0, 0) throughout as it is their origin, and not missing.

    That is the centre or an end of the spine, or the only joint of which this is so. The origin then lies
    by other joints of the body (of a hand, at the wrist), and not where a camera stands.
    """
    seen, moved = frames.any(-1), False
    for body, there in zip(frames.swapaxes(0, 1), seen.swapaxes(0, 1), strict=True):
        present = there.any(1)
        never = np.flatnonzero(~there.any(0))
        named = [joint for joint in (layout.centre, *layout.spine) if joint in never]
        if present.any() and (named or len(never) == 1):
            poses, shown = body[present], there[present]
            nearest = np.where(shown, np.linalg.norm(poses, axis=-1), np.inf).min(1)
            extent = np.linalg.norm(np.ptp(poses[:, shown.any(0)], axis=1), axis=-1)
            if np.median(nearest) < np.median(extent) / 3:
                there[:, [*named, *never][0]] = present
                moved = True
    return np.where(seen[..., None], frames + _AWAY, 0.0) if moved else frames


def _centre(frames: Frames, layout: Layout, as_released: bool = False) -> tuple[Bodies, Seen]:
    """Bodies without gaps, the centre joint of the first at the origin, and which joints are seen.

    Of a picture they are scaled as well. Missing joints stay (0, 0, 0).
    """
    bodies = _fill_gaps(frames.astype(np.float64).transpose(1, 0, 2, 3), as_released)
    seen = bodies.any(-1)
    if not seen.any():
        return bodies, seen
    if layout.axes == 2:
        return centre_and_scale(bodies, layout), seen
    centre = bodies[_reference(seen), :, layout.centre]  # [time, 3]
    if not as_released:
        centre = hold_points(centre, centre.any(-1))
    return (bodies - centre[:, None]) * seen[..., None], seen


def _reference(seen: Seen) -> int:
    """The first body, unless it is empty altogether: then nobody would give the directions."""
    return int(seen.any((1, 2)).argmax())


def _upright_rotation(body: Body, seen: BodySeen, layout: Layout) -> Float[np.ndarray, "3 3"]:
    """The rotation whose rows are the clip's new axes: right, forward, up."""
    (bottom, top), (right, left) = layout.spine, layout.shoulders
    spine, line = body[:, top] - body[:, bottom], body[:, right] - body[:, left]
    spine_seen, line_seen = seen[:, bottom] & seen[:, top], seen[:, right] & seen[:, left]
    stands = _are_long(spine, spine, spine_seen)
    frame, up = 0, np.array([0.0, 0.0, 1.0])
    if stands.any():
        whole = stands & line_seen
        frame = int(whole.argmax() if whole.any() else stands.argmax())
        up = spine[frame] / np.linalg.norm(spine[frame])

    across = line - (line @ up)[:, None] * up
    usable = np.flatnonzero(_are_long(across, line, line_seen))
    if not len(usable):
        return _rotation_onto(up, np.array([0.0, 0.0, 1.0]), over=True)
    side = across[usable[np.abs(usable - frame).argmin()]]
    side /= np.linalg.norm(side)
    return np.stack([side, np.cross(up, side), up])


def _are_long(
    vectors: Lines, usual: Lines, seen: Bool[np.ndarray, " time"]
) -> Bool[np.ndarray, " time"]:
    """Which are seen and long enough, against three in four of the `usual` ones, for a direction."""
    if not seen.any():
        return seen
    lengths = np.sort(np.linalg.norm(usual, axis=-1)[seen])
    least = max(_TINY, _COLLAPSED * float(lengths[3 * len(lengths) // 4]))
    return seen & (np.linalg.norm(vectors, axis=-1) > least)


def _fill_gaps(bodies: Bodies, as_released: bool) -> Bodies:
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


def _rotation_onto(
    vector: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"], over: bool = False
) -> Float[np.ndarray, "3 3"]:
    """The shortest rotation that turns `vector` to the unit vector `target` (Rodrigues' formula).

    The identity where it is not defined: a vector of no length, or one that points away exactly,
    which `over` turns over about the x axis.
    """
    length = np.linalg.norm(vector)
    axis = np.cross(vector, target)
    if not np.isfinite(length) or length < _TINY or np.abs(axis).sum() < _TINY:
        return np.diag([1.0, -1.0, -1.0]) if over and vector @ target < 0 else np.eye(3)
    x, y, z = axis / np.linalg.norm(axis)
    angle = np.arccos(np.clip(vector @ target / length, -1.0, 1.0))
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross)
