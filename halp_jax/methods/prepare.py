"""How the clips of a config are prepared before an encoder sees them, in training and evaluation alike."""

from typing import Any

import ml_collections
from jaxtyping import Array

from halp_jax.methods import ascal_view, normal_view, relative_view, whole_view
from halp_jax.skeletons.layout import Layout

# With SECTIONS all that says which frames of a clip an encoder sees, and how they lie.
FRAMES = ("data.max_frames", "views.num_frames", "views.min_frames")
SECTIONS = {  # of a config, that say it
    "normal_view": normal_view, "whole_view": whole_view, "ascal_view": ascal_view,
    "relative_view": relative_view,
}  # fmt: skip


def make_prepare(config: ml_collections.ConfigDict, layout: Layout) -> normal_view.Prepare | None:
    """-> prepare(clip): the whole clip in views.num_frames frames; None where the config says nothing."""
    for name, module in SECTIONS.items():
        if name in config:
            return module.make_prepare(config, layout)
    return None


def apply_prepare(
    prepare: normal_view.Prepare | None, clip: Array, length: Any, min_frames: int
) -> tuple[Array, Any, int]:
    """(the clip to crop, its length, the least frames of a crop): prepared ones have no other length."""
    if prepare is None:
        return clip, length, min_frames
    clip = prepare(clip)
    return clip, len(clip), 1
