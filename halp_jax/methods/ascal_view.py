"""The views of AS-CAL, composed of skeletons/extreme.py as config.ascal_view says.

What draws no random number, which frames are taken and minus_joint, is done in evaluation, too.
"""

from collections.abc import Callable

import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int, Key

from halp_jax.methods import check
from halp_jax.methods.base import Batch, Spec
from halp_jax.methods.common import map_clips
from halp_jax.skeletons import extreme
from halp_jax.skeletons.augment import crop, find_length
from halp_jax.skeletons.layout import Layout

CHOICES = {"ascal_view.frames": ("first", "resampled")}
FIXED_PARTS = ("minus_joint",)  # those that draw nothing


def default_config() -> ml_collections.ConfigDict:
    """The section `ascal_view` of a config."""
    ascal_view = ml_collections.ConfigDict()  # both views of a clip
    # In this order; there are minus_joint, reverse, shear, rotate, cut_out, zero_axis, blur, noise.
    ascal_view.parts = ("minus_joint", "reverse", "shear")
    # "first": the first views.num_frames, zeros after the clip's end (released); "resampled": all of the clip
    ascal_view.frames = "first"
    # From 0, the origin of minus_joint: the spine's middle of NTU RGB+D and Kinect.
    ascal_view.joint = 1
    ascal_view.reverse_probability = 0.5
    ascal_view.shear = 1.0  # off-diagonal entries of the shear ~ U(-shear, shear)
    ascal_view.rotation = 30.0  # at most, degrees about an axis that is drawn
    ascal_view.cut_joints = (5, 15)  # least and most joints that cut_out sets to 0 ...
    ascal_view.cut_frames = (50, 100)  # ... in as many frames (released: 20 to 50 of less than 100)
    ascal_view.blur_probability = 0.5
    ascal_view.blur_normalized = False  # a quirk: the taps add up to 1 to 5
    ascal_view.noise = 0.05  # standard deviation, metres
    return ml_collections.ConfigDict({"ascal_view": ascal_view})


def check_config(config: ml_collections.ConfigDict, spec: Spec | None = None) -> None:
    """Raises UserError for settings that cannot work."""
    check.choices(config, CHOICES)
    view = config.ascal_view
    if not set(view.parts) <= set(extreme.PARTS):
        check.refuse(config, "ascal_view.parts", f"use some of {', '.join(extreme.PARTS)}")
    for name in ("cut_joints", "cut_frames"):
        pair = tuple(view[name])
        if len(pair) != 2 or not 0 <= pair[0] <= pair[1]:
            check.refuse(config, f"ascal_view.{name}", "give (least, most) with 0 <= least <= most")
    check.at_least(config, 0, *(f"ascal_view.{n}" for n in ("joint", "shear", "rotation", "noise")))
    check.shares(config, "ascal_view.reverse_probability", "ascal_view.blur_probability")
    if view.frames == "first" and "motion" in config.streams:
        advice = (
            "motion would jump where a clip is padded; set --config.ascal_view.frames=resampled"
        )
        check.refuse(config, "streams", advice)
    if spec and view.joint >= spec.layout.num_joints:
        advice = f"{spec.layout.name} has the joints 0 to {spec.layout.num_joints - 1}"
        check.refuse(config, "ascal_view.joint", advice)


def make_prepare(config: ml_collections.ConfigDict, layout: Layout) -> Callable[[Array], Array]:
    """-> prepare(clip): what of a view draws nothing, of a whole clip with zeros after its end."""
    fixed = [name for name in config.ascal_view.parts if name in FIXED_PARTS]

    def prepare(clip: Float[Array, "time bodies joints xyz"]) -> Array:
        clip = take_frames(config, clip, find_length(clip))
        return extreme.minus_joint(clip, config.ascal_view.joint) if fixed else clip

    return prepare


def make_view(config: ml_collections.ConfigDict) -> Callable[[Key[Array, ""], Batch], Batch]:
    """-> view(key, batch)."""

    def view(key, clip, length):
        clip = take_frames(config, clip, length)
        return extreme.compose(key, clip, config.ascal_view)

    return lambda key, batch: map_clips(view, key, batch)


def take_frames(
    config: ml_collections.ConfigDict,
    clip: Float[Array, "time bodies joints xyz"],
    length: Int[Array, ""],
) -> Float[Array, "new_time bodies joints xyz"]:
    """views.num_frames of a clip of which `length` are valid."""
    count = config.views.num_frames
    if config.ascal_view.frames == "resampled":
        return crop(clip, 0, jnp.maximum(length, 1), count)
    return jnp.pad(clip[:count], ((0, max(0, count - len(clip))), (0, 0), (0, 0), (0, 0)))
