"""P&C's preparation as a view: one body, turned once by its first frame, each axis in [-1, 1].

Source: preprocess/ of shlizee/Predict-Cluster (Su, Liu, Shlizerman, CVPR 2020). Its arrays hold such clips;
here they are made on the device of what `prepare --normalize=none` wrote.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from halp_jax.skeletons.augment import Clip, Count, View, crop, keep_first
from halp_jax.skeletons.common import find_joints
from halp_jax.skeletons.layout import Layout

DOWNSAMPLES = ("strided", "linear")
HIPS = ("right hip", "left hip")
_TINY = 1e-6  # metres: a shorter line gives no direction


def prepare_clip(
    clip: Clip, layout: Layout, num_frames: int = 50, downsample: str = "strided"
) -> View:
    """The clip as P&C's arrays have it, at most `num_frames` long, with zeros behind its end.

    Frames without the first body are left out, and so are the other bodies. Joints in a picture are not
    turned.

    Args:
        downsample: how a longer clip is made shorter: "strided" as released, see `stride_frames`, or
            "linear", all of it resampled.
    """
    seen = jnp.any(clip[:, 0] != 0, axis=(1, 2))
    clip = clip[jnp.argsort(~seen, stable=True)].at[:, 1:].set(0.0)
    length = jnp.sum(seen, dtype=jnp.int32)
    if layout.axes == 3:
        clip = turn_by_first(clip, layout)
    clip = scale_axes(clip, length)
    if downsample == "strided":
        return stride_frames(clip, length, num_frames)
    return crop(clip, 0, length, num_frames, jnp.clip(length, 1, num_frames))


def turn_by_first(clip: Clip, layout: Layout) -> Clip:
    """All bodies in the axes of the first one in frame 0, from the bottom of its spine.

    x goes from the right hip to the left one, at right angles to z, which goes up the spine; y is
    x cross z, so the axes are left-handed and people are mirrored, as released. Of a layout without hips x
    goes along the shoulders.
    """
    first = clip[0, 0]
    bottom, top = layout.spine
    hips = find_joints(layout.joints, HIPS)
    right, left = [hips[hip] for hip in HIPS] if len(hips) == 2 else layout.shoulders
    up = _unit(first[top] - first[bottom])
    line = first[left] - first[right]
    side = _unit(line - jnp.dot(up, line) * up)
    axes = jnp.stack([side, _unit(jnp.cross(side, up)), up], axis=1)
    return jnp.einsum("tmvc,cd->tmvd", clip - first[bottom], axes, precision="highest")


def scale_axes(clip: Clip, length: Count) -> Clip:
    """Each axis of the first body over the first `length` frames in [-1, 1]; 0 where it does not move."""
    valid = (jnp.arange(len(clip)) < length)[:, None, None]
    low = jnp.min(jnp.where(valid, clip[:, 0], jnp.inf), axis=(0, 1))
    high = jnp.max(jnp.where(valid, clip[:, 0], -jnp.inf), axis=(0, 1))
    span = high - low
    scaled = 2.0 * (clip - low) / jnp.where(span > 0, span, 1.0) - 1.0
    there = valid[:, None] & (jnp.arange(clip.shape[1]) == 0)[:, None, None] & (span > 0)
    return jnp.where(there, scaled, 0.0)


def stride_frames(clip: Clip, length: Count, num_frames: int) -> View:
    """Every floor(length / num_frames)-th frame, of which the first `num_frames` are kept.

    A quirk: of 99 frames they are the first 50.
    """
    step = jnp.maximum(length // num_frames, 1)
    place = jnp.minimum(jnp.arange(num_frames) * step, len(clip) - 1)
    return keep_first(clip[place], jnp.minimum(length, num_frames))


def _unit(vector: Float[Array, " xyz"]) -> Float[Array, " xyz"]:
    return vector / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(vector))), _TINY)
