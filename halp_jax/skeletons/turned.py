"""AimCLR's preparation as a view: a clip resampled, each body centred and turned by itself in every frame.

Source: feeder/preprocess_ntu.py of Levigty/AimCLR, whose arrays hold such clips. Here it is made
of what `prepare` wrote, whenever a clip is read, so there is no second data set. Clips of
`--normalize=none --bodies=slot` become the released ones (up is y, as a camera has it). Clips in the
default frame have z up: there `up="z"` turns in its axes, which is not the released code's input, for the
camera's height and tilt are gone.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int

from halp_jax.skeletons.augment import Clip, View, crop
from halp_jax.skeletons.layout import Layout

UP = ("y", "z")
_TINY = 1e-4  # metres, added to the length of the shoulder line


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
