"""Views of a clip: temporal crops and the spatial corruptions of the released code; streams.

Source: feeder/augmentations.py of CMD and HaLP. One clip, one key -> one view; the caller vmaps.
A clip is [time, bodies, joints, 3] of which the first `length` frames are valid.
"""

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int, Key

from halp_jax.skeletons.layout import Layout

Clip = Float[Array, "time bodies joints xyz"]
View = Float[Array, "new_time bodies joints xyz"]
Count = Int[Array, ""] | int
Rng = Key[Array, ""]
STREAMS = ("joint", "motion", "bone")  # positions, their motion, the bones (AS-CAL / 2s-AGCN / CMD)


def crop(
    frames: Clip,
    start: Count,
    length: Count,
    num_frames: int = 64,
    size: Int[Array, ""] | None = None,
) -> View:
    """Frames start .. start + length, resampled linearly to `num_frames`.

    Half-pixel centres, edges clamped: F.interpolate(mode="bilinear", align_corners=False).

    Args:
        size: resampled to so many frames instead, of which the first `num_frames` are given, with
            zeros behind them where there are fewer.
    """
    position = (jnp.arange(num_frames) + 0.5) * (
        length / (num_frames if size is None else size)
    ) - 0.5
    position = jnp.maximum(position, 0.0)
    below = jnp.minimum(jnp.floor(position).astype(jnp.int32), length - 1)
    above = jnp.minimum(below + 1, length - 1)
    weight = (position - below)[:, None, None, None]
    view = frames[start + below] * (1.0 - weight) + frames[start + above] * weight
    return view if size is None else keep_first(view, size)


def keep_first(frames: Clip, length: Count) -> Clip:
    """The first `length` frames, and zeros behind them."""
    return jnp.where((jnp.arange(len(frames)) < length)[:, None, None, None], frames, 0.0)


def find_length(frames: Clip) -> Int[Array, ""]:
    """The number of frames up to the last one in which anybody is seen."""
    seen = jnp.any(frames != 0, axis=(1, 2, 3))
    return jnp.max(jnp.where(seen, jnp.arange(1, len(frames) + 1), 0)).astype(jnp.int32)


def centre_crop(frames: Clip, length: Count, ratio: float = 0.95, num_frames: int = 64) -> View:
    """The middle `ratio` of the clip: the test view of the released code."""
    margin = jnp.floor((1.0 - ratio) * length / 2).astype(jnp.int32)
    return crop(frames, margin, length - 2 * margin, num_frames)


def random_crop(
    key: Rng,
    frames: Clip,
    length: Count,
    low: float,
    high: float,
    num_frames: int = 64,
    min_frames: int = 64,
) -> View:
    """A random share U(low, high) of the clip, at least `min_frames` where it has them, anywhere."""
    key_ratio, key_start = jax.random.split(key)
    ratio = jax.random.uniform(key_ratio, minval=low, maxval=high)
    size = jnp.floor(length * ratio).astype(jnp.int32)
    size = jnp.minimum(jnp.maximum(size, min_frames), length)
    start = jax.random.randint(key_start, (), 0, length - size + 1)
    return crop(frames, start, size, num_frames)


def transform(frames: Clip, matrix: Float[Array, "3 3"]) -> Clip:
    """Every coordinate row vector x becomes x @ matrix.

    (The released shear multiplies column vectors. Its matrix is drawn alike above and below the
    diagonal, so the views have the same distribution.)
    """
    return jnp.einsum("tmvc,cd->tmvd", frames, matrix, precision="highest")


def random_shear(key: Rng, size: float) -> Float[Array, "3 3"]:
    """A 3 x 3 matrix with unit diagonal and U(-size, size) elsewhere."""
    matrix = jax.random.uniform(key, (3, 3), minval=-size, maxval=size)
    return jnp.where(jnp.eye(3, dtype=bool), 1.0, matrix)


def random_joints(key: Rng, num_joints: int, count: int) -> Float[Array, " joints"]:
    """A mask [joints] of `count` joints drawn without replacement: 1 where drawn."""
    rank = jnp.argsort(jax.random.uniform(key, (num_joints,)))
    return jnp.zeros(num_joints).at[rank[: min(count, num_joints)]].set(1.0)


def random_view(key: Rng, frames: Clip, length: Count, views: ml_collections.ConfigDict) -> View:
    """A random crop, then exactly one of: shear; joints set to 0; joints shaken by a random matrix.

    Shear comes with `shear_probability`, the other two share the rest evenly. Joints and matrices are
    the same in all frames and for both bodies. `views`: the section of that name of a config.
    """
    key_crop, key_kind, key_shear, key_joints, key_shake = jax.random.split(key, 5)
    view = random_crop(key_crop, frames, length, *views.crop, views.num_frames, views.min_frames)
    kind = jax.random.uniform(key_kind)
    sheared = kind < views.shear_probability
    zeroed = kind > (1.0 + views.shear_probability) / 2

    drawn = random_joints(key_joints, frames.shape[2], views.num_corrupted_joints)
    shake = jax.random.uniform(key_shake, (3, 3), minval=-1.0, maxval=1.0)
    # All three are "multiply some joints by a matrix": one product serves whichever is drawn.
    matrix = jnp.where(sheared, random_shear(key_shear, views.shear), shake)
    matrix = jnp.where(zeroed, 0.0, matrix)
    touched = jnp.where(sheared, 1.0, drawn)[:, None]
    return jnp.where(touched > 0, transform(view, matrix), view)


def hide_end(frames: Clip, length: Count, share: float) -> Clip:
    """The last `share` of the valid frames, rounded down to whole ones, set to 0: to be predicted."""
    return keep_first(frames, length - jnp.floor(length * share).astype(jnp.int32))


def permute_segments(frames: Clip, length: Count, order: Int[Array, " segments"]) -> Clip:
    """The valid frames cut into equally long segments, of which `order` says which comes where.

    What the division leaves over stays at the end, as in MS2L's released code.
    """
    size = length // len(order)
    time = jnp.arange(len(frames))
    place = time // jnp.maximum(size, 1)
    moved = place < len(order)
    source = order[jnp.minimum(place, len(order) - 1)] * size + time % jnp.maximum(size, 1)
    return frames[jnp.where(moved & (size > 0), source, time)]


def make_stream(frames: Clip, name: str, layout: Layout) -> Clip:
    """One stream of a clip [time, bodies, joints, 3].

    motion is the difference to the next frame, the last frame 0; bone is a joint minus its parent,
    the root 0.
    """
    if name == "joint":
        return frames
    if name == "motion":
        return jnp.concatenate([frames[1:] - frames[:-1], jnp.zeros_like(frames[:1])])
    if name == "bone":
        return frames - frames[:, :, jnp.array(layout.parents)]
    raise ValueError(f"unknown stream {name!r}: one of {', '.join(STREAMS)}")
