"""The views of GL-Transformer: a clip prepared by skeletons/turned.py, stretched in time and sheared.

Whoever has the section `relative_view` has clips prepared so in evaluation, too, without stretch and shear.
"""

from collections.abc import Callable

import jax
import ml_collections
from jaxtyping import Array, Key

from halp_jax.methods import check
from halp_jax.methods.base import Batch
from halp_jax.methods.common import map_clips
from halp_jax.skeletons import turned
from halp_jax.skeletons.augment import find_length, random_shear
from halp_jax.skeletons.layout import Layout


def default_config() -> ml_collections.ConfigDict:
    """The section `relative_view` of a config."""
    relative_view = ml_collections.ConfigDict()  # a whole clip, relative to each body's root
    relative_view.up = "y"  # of the clips: y as a camera has it (prepare --normalize=none), else z
    relative_view.stretch = 0.1  # clips become longer or shorter by at most this share
    relative_view.shear = 0.3  # off-diagonal entries of the shear ~ U(-shear, shear)
    return ml_collections.ConfigDict({"relative_view": relative_view})


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for settings that cannot work."""
    check.choices(config, {"relative_view.up": turned.UP})
    check.shares(config, "relative_view.stretch")
    check.at_least(config, 0, "relative_view.shear")
    if tuple(config.streams) != ("joint",):
        check.refuse(config, "streams", f"{config.method} is of positions: give ('joint',)")


def make_prepare(config: ml_collections.ConfigDict, layout: Layout) -> Callable[[Array], Array]:
    """-> prepare(clip): the whole clip, padded or shortened to views.num_frames frames."""
    num_frames, up = config.views.num_frames, config.relative_view.up
    return lambda clip: turned.prepare_relative(clip, layout, num_frames, up)


def make_view(
    config: ml_collections.ConfigDict, layout: Layout
) -> Callable[[Key[Array, ""], Batch], Batch]:
    """-> view(key, batch)."""
    v, prepare = config.relative_view, make_prepare(config, layout)

    def view(key, clip, length):
        key_stretch, key_shear = jax.random.split(key)
        clip = prepare(clip)
        factor = 1.0 + jax.random.uniform(key_stretch, minval=-v.stretch, maxval=v.stretch)
        clip = turned.stretch(clip, find_length(clip), factor)
        return turned.shear_joints(clip, random_shear(key_shear, v.shear), layout.root)

    return lambda key, batch: map_clips(view, key, batch)
