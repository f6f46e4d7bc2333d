"""GL-Transformer's clips (Kim et al., ECCV 2022): joints around the body's root, its way at the root; their views.

Source: data/preprocessing/NTU_datasets.py and feeder/tools.py of Boeun-Kim/GL-Transformer. Here the clips are made
of what `prepare` wrote, whenever one is read. A clip is [time, bodies, joints, 3], with zeros behind its end.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from halp_jax.skeletons.augment import Clip, Count, View, crop, keep_first, transform
from halp_jax.skeletons.layout import Layout
from halp_jax.skeletons.turned import centre_bodies, count_frames, turn_bodies


def prepare_clip(clip: Clip, layout: Layout, num_frames: int = 300, up: str = "y") -> View:
    """The clip as the authors' arrays have it: relative to each body's root, then turned in every frame.

    A longer clip is resampled to `num_frames` (released: cut). Joints in a picture are not turned.

    Args:
        up: as `turned.turn_bodies` has it.
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
