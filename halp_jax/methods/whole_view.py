"""Views of methods that see whole clips: no longer than views.num_frames, zeros behind their end.

Whoever has the section `whole_view` has clips prepared deterministically, in training and evaluation alike.
A clip's length is then the number of frames up to the last one that shows anybody.
"""

import jax
import ml_collections
from jaxtyping import Array, Float

from halp_jax.methods import check
from halp_jax.methods.base import Batch
from halp_jax.methods.common import find_lengths
from halp_jax.skeletons import turned
from halp_jax.skeletons.augment import crop, find_length
from halp_jax.skeletons.layout import Layout

PREPARE = ("minmax", "none")
CHOICES = {"whole_view.prepare": PREPARE, "whole_view.downsample": turned.DOWNSAMPLES}


def default_config(prepare: str, downsample: str = "linear") -> ml_collections.ConfigDict:
    """The section `whole_view` of a config."""
    whole_view = ml_collections.ConfigDict()  # a whole clip, prepared deterministically
    # "minmax": as P&C's authors did. "none": clips are taken as `prepare` wrote them.
    whole_view.prepare = prepare
    # How a clip of more than views.num_frames becomes as short: resampled, "linear"; or, of minmax,
    # "strided": every n-th frame as released, which leaves out the end of some.
    whole_view.downsample = downsample
    return ml_collections.ConfigDict({"whole_view": whole_view})


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for settings that cannot work."""
    check.choices(config, CHOICES)
    if config.whole_view.downsample == "strided" and config.whole_view.prepare != "minmax":
        check.refuse(config, "whole_view.downsample", "only whole_view.prepare=minmax has it")
    if tuple(config.streams) != ("joint",):
        check.refuse(config, "streams", f"{config.method} is of positions: give ('joint',)")


def make_prepare(config: ml_collections.ConfigDict, layout: Layout):
    """-> prepare(clip): the whole clip, padded or shortened to views.num_frames frames."""
    view, num_frames = config.whole_view, config.views.num_frames

    def prepare(clip: Float[Array, "time bodies joints xyz"]):
        if view.prepare == "minmax":
            return turned.prepare_scaled(clip, layout, num_frames, view.downsample)
        length = find_length(clip)
        return crop(clip, 0, length, num_frames, length.clip(1, num_frames))

    return prepare


def make_view(config: ml_collections.ConfigDict, layout: Layout):
    """-> view(batch): each clip prepared, with its length."""
    prepare = make_prepare(config, layout)

    def view(batch: Batch) -> Batch:
        frames = jax.vmap(prepare)(batch["frames"])
        return batch | {"frames": frames, "length": find_lengths(frames)}

    return view
