"""Joints in a picture as clips: x to the right, y down, z always 0; a joint not seen is (0, 0, 0).

The third coordinate is 0 and not the detector's score: views shear and shake coordinates by 3 x 3
matrices, and motion and bones are differences, all of which mean nothing for a score. A score of
exactly 0 says that a joint was not seen.
"""

import numpy as np
from jaxtyping import Bool, Float, Shaped

from halp_jax.skeletons.layout import Layout

Bodies = Float[np.ndarray, "bodies time joints xyz"]
# What the median spine is scaled to: about metres, so that settings made for sensors fit.
SPINE_LENGTH = 0.5
_TINY = 1e-6


def lift_points(
    points: Shaped[np.ndarray, "*frames joints axes"],
    scores: Shaped[np.ndarray, "*frames joints"] | None = None,
    size: tuple[float, float] | None = None,
) -> Float[np.ndarray, "*frames joints 3"]:
    """Points [..., joints, 2] or [..., joints, 3 (x, y, score)] -> [..., joints, 3] with z = 0.

    Args:
        scores: [..., joints]; 0 is a joint that was not seen. Without them, or where all are 0 as in
            clips that were lifted before, (0, 0) is one.
        size: (height, width) of the picture in the unit of the points. They then come to lie in
            the box from -1 to 1 around its middle, the longer side filling it, so that people keep
            their proportions. Points stay as they are without it.
    """
    if scores is None:
        scored = points.shape[-1] == 3 and points[..., 2].any()
        scores = points[..., 2] if scored else points[..., :2].any(-1)
    places = points[..., :2].astype(np.float64)
    if size is not None:
        height, width = size
        places = (places - (width / 2, height / 2)) / (max(height, width) / 2)
    lifted = np.zeros((*points.shape[:-1], 3))
    lifted[..., :2] = np.where((scores != 0)[..., None], places, 0.0)
    return lifted


def centre_and_scale(bodies: Bodies, layout: Layout) -> Bodies:
    """Puts the trunk of the first body at the origin of every frame, and scales the clip.

    What the view-invariant normalisation is to a picture: where people stand in it and how far they
    are no longer matters. The trunk is the mean of spine and shoulder joints of both sides; in
    frames that miss one of them it is where it was last. The scale makes the median spine of the
    first body 0.5 long. Nothing is turned: up is up in every picture. Missing joints stay (0, 0, 0).
    """
    seen = bodies.any(-1)
    reference = int(seen.any((1, 2)).argmax())
    body, there = bodies[reference], seen[reference]
    mirror = dict(zip(layout.left + layout.right, layout.right + layout.left, strict=True))
    named = {*layout.spine, *layout.shoulders}
    trunk = sorted(named | {mirror.get(joint, joint) for joint in named})
    whole = there[:, trunk].all(1)
    if not whole.any():  # never all of them: whatever is seen of the body
        whole, trunk = there.any(1), list(range(layout.num_joints))
    count = np.maximum(there[:, trunk].sum(1), 1)[:, None]
    middle = hold_points(body[:, trunk].sum(1) / count, whole)
    both = there[:, list(layout.spine)].all(1)
    spine = body[both, layout.spine[1]] - body[both, layout.spine[0]]
    length = float(np.median(np.linalg.norm(spine, axis=-1))) if len(spine) else 0.0
    scale = SPINE_LENGTH / length if length > _TINY else 1.0
    return (bodies - middle[:, None]) * (scale * seen[..., None])


def hold_points(
    points: Float[np.ndarray, "time xyz"], known: Bool[np.ndarray, " time"]
) -> Float[np.ndarray, "time xyz"]:
    """Every point that is not known replaced by the last one before it, or the first of all."""
    last = np.maximum.accumulate(np.where(known, np.arange(len(points)), -1))
    return points[np.where(last < 0, known.argmax(), last)]
