"""Preparations as views: AimCLR's, GL-Transformer's and P&C's.

Sources: feeder/preprocess_ntu.py of Levigty/AimCLR, data/preprocessing/NTU_datasets.py and feeder/tools.py of
Boeun-Kim/GL-Transformer (Kim et al., ECCV 2022) and preprocess/ of shlizee/Predict-Cluster (Su, Liu,
Shlizerman, CVPR 2020), whose arrays hold such clips. Here they are made of what `prepare` wrote, whenever
a clip is read, so there is no second data set. Clips of `--normalize=none --bodies=first` become the
released ones (up is y, as a camera has it). Clips in the default frame have z up: there `up="z"` turns in
its axes, which is not the released code's input, for the camera's height and tilt are gone.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from halp_jax.skeletons.augment import Clip, Count, View, crop, keep_first, transform
from halp_jax.skeletons.common import find_joints
from halp_jax.skeletons.layout import Layout

UP = ("y", "z")
_TINY = 1e-4  # metres, added to the length of the shoulder line
_SHORT = 1e-6  # metres: a shorter line gives no direction
DOWNSAMPLES = ("strided", "linear")
HIPS = ("right hip", "left hip")


def count_frames(clip: Clip) -> Int[Array, ""]:
    """Frames that show the first body. A quirk: so many frames are kept, so a gap cuts the end."""
    return jnp.sum(jnp.any(clip[:, 0] != 0, axis=(1, 2)), dtype=jnp.int32)


def centre_bodies(clip: Clip, layout: Layout) -> Clip:
    """Each body around the root of the bones, in every frame: where it stood is lost."""
    return clip - clip[:, :, layout.root, None]


def turn_bodies(clip: Clip, layout: Layout, up: str = "y") -> Clip:
    """The shoulder line (left to right) turned to the x axis about `up`, in every frame and for each body.

    The side it is turned to is one for the whole clip, by the mean of the line's depth. In frames with
    the line on the other side of x the rotation is therefore the wrong way round: a quirk.
    """
    depth = {"y": 2, "z": 1}[up]
    right, left = layout.shoulders
    line = clip[:, :, right] - clip[:, :, left]  # [time, bodies, xyz]
    x, z = line[..., 0], line[..., depth]
    theta = jnp.arccos(x / (jnp.sqrt(x * x + z * z) + _TINY))
    theta = jnp.where(jnp.sum(z, axis=0) >= 0, -theta, theta)[:, :, None]
    cos, sin = jnp.cos(theta), jnp.sin(theta)
    x, z = clip[..., 0], clip[..., depth]
    turned = clip.at[..., 0].set(cos * x - sin * z)
    return turned.at[..., depth].set(sin * x + cos * z)


def prepare_clip(clip: Clip, layout: Layout, num_frames: int = 50, up: str = "y") -> View:
    """The clip as AimCLR's arrays have it. Joints in a picture are not turned.

    A clip that never shows the first body is returned as zeros.
    """
    length = jnp.maximum(count_frames(clip), 1)
    clip = centre_bodies(crop(clip, 0, length, num_frames), layout)
    return turn_bodies(clip, layout, up) if layout.axes == 3 else clip


# --- GL-Transformer: joints around the body's root, and the root's way since the first frame --------


def prepare_relative(clip: Clip, layout: Layout, num_frames: int = 300, up: str = "y") -> View:
    """The clip as GL-Transformer's arrays have it: relative to each body's root, then turned in every frame.

    A longer clip is resampled to `num_frames` (released: cut). Joints in a picture are not turned.

    Args:
        up: as `turn_bodies` has it.
    """
    length = count_frames(clip)
    size = length.clip(1, num_frames)
    clip = crop(clip, 0, jnp.maximum(length, 1), num_frames, size)
    # Where each body's root has come since the first frame.
    way = clip[:, :, layout.root] - clip[0, :, layout.root]
    clip = centre_bodies(clip, layout).at[:, :, layout.root].set(way)
    clip = turn_bodies(clip, layout, up) if layout.axes == 3 else clip
    return keep_first(clip, jnp.minimum(length, size))


def stretch(clip: Clip, length: Count, factor: Float[Array, ""] | float) -> Clip:
    """The first `length` frames resampled to `factor` times as many; what passes the clip's end is cut."""
    size = jnp.maximum(jnp.floor(length * factor).astype(jnp.int32), 1)
    return crop(clip, 0, jnp.maximum(length, 1), len(clip), size)


def shear_joints(clip: Clip, matrix: Float[Array, "3 3"], root: int) -> Clip:
    """Every joint but the root, whose coordinates are a way, becomes x @ matrix."""
    return transform(clip, matrix).at[:, :, root].set(clip[:, :, root])


# --- P&C: one body, turned once by its first frame, each axis in [-1, 1] -----------------------------


def prepare_scaled(
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
    side = _unit(line - jnp.dot(up, line, precision="highest") * up)
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
    return vector / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(vector))), _SHORT)
