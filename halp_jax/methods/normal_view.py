"""The views of SkeletonCLR, CrosSCLR and AimCLR, from config.normal_view and config.extreme_view.

Whoever has the section `normal_view` may have clips prepared as these methods' authors did, in training
and evaluation alike: `make_prepare`, found by methods/prepare.py.
"""

from collections.abc import Callable

import ml_collections
from jaxtyping import Array, Float, Key

from halp_jax.methods import check
from halp_jax.methods.base import Batch
from halp_jax.methods.common import make_view, map_clips
from halp_jax.skeletons import extreme, turned
from halp_jax.skeletons.augment import crop
from halp_jax.skeletons.layout import Layout

PREPARE = ("released", "none")
KINDS = ("skeletonclr", "moco")
CHOICES = {
    "normal_view.prepare": PREPARE, "normal_view.up": turned.UP, "normal_view.kind": KINDS,
}  # fmt: skip
Prepare = Callable[
    [Float[Array, "time bodies joints xyz"]], Float[Array, "new_time bodies joints xyz"]
]


def default_config() -> ml_collections.ConfigDict:
    """The sections `normal_view` and `extreme_view` of a config."""
    normal_view = ml_collections.ConfigDict()  # a clip cropped and sheared
    # "skeletonclr": by the settings below; "moco": by those of config.views, of clips as they are.
    normal_view.kind = "skeletonclr"
    # "released": each body is centred and turned by itself in every frame, in training and
    # evaluation. "none": clips are taken as `prepare` wrote them. See halp_jax/skeletons/turned.py.
    normal_view.prepare = "released"
    normal_view.up = "y"  # of the clips: y as a camera has it (prepare --normalize=none), else z
    # A sixth of the clip is mirrored at each end, then cropped; 0: no crop.
    normal_view.pad_ratio = 6
    normal_view.shear = 0.5  # off-diagonal entries of the shear ~ U(-shear, shear)
    extreme_view = ml_collections.ConfigDict()  # a normal view distorted further
    extreme_view.flip_probability = 0.5
    extreme_view.flip_mirrors = False  # a quirk: sides are swapped, but x is not negated
    extreme_view.rotation = 30.0  # at most, degrees about an axis that is drawn
    extreme_view.rotation_rest = 1.0  # about the other two
    extreme_view.noise_probability = 0.5
    extreme_view.noise = 0.01  # standard deviation, metres
    extreme_view.blur_probability = 0.5
    extreme_view.blur_normalized = False  # a quirk: the taps add up to 1 to 5
    extreme_view.axis_probability = 0.5  # one of x, y, z is set to 0
    extreme_view.reverse_probability = 0.0  # 1/2 in the release of December 2021
    return ml_collections.ConfigDict({"normal_view": normal_view, "extreme_view": extreme_view})


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for settings that cannot work."""
    check.choices(config, CHOICES)
    check.at_least(config, 0, "normal_view.pad_ratio", "normal_view.shear")
    if config.normal_view.kind == "moco" and config.normal_view.prepare != "none":
        check.refuse(config, "normal_view.prepare", "with normal_view.kind=moco it is none")
    if "extreme_view" in config:
        names = [f"extreme_view.{name}" for name in config.extreme_view]
        check.shares(config, *[name for name in names if name.endswith("probability")])


def make_prepare(config: ml_collections.ConfigDict, layout: Layout) -> Prepare | None:
    """-> prepare(clip): the whole clip in views.num_frames frames; None for clips as they are."""
    normal = config.normal_view
    if normal.prepare == "none":
        return None
    return lambda clip: turned.prepare_clip(clip, layout, config.views.num_frames, normal.up)


def make_views(
    config: ml_collections.ConfigDict, layout: Layout
) -> tuple[Callable[[Key[Array, ""], Batch], Batch], Callable[[Key[Array, ""], Batch], Batch]]:
    """(normal, extreme): functions (key, batch) -> batch; the second needs config.extreme_view."""
    prepare, num_frames = make_prepare(config, layout), config.views.num_frames
    n = config.normal_view

    def whole(clip, length):
        return prepare(clip) if prepare else crop(clip, 0, length, num_frames)

    def normal_view(key, clip, length):
        return extreme.normal_view(key, whole(clip, length), n)

    def extreme_view(key, clip, length):
        return extreme.extreme_view(key, whole(clip, length), n, config.extreme_view, layout)

    normal, distorted = (
        lambda key, batch, view=view: map_clips(view, key, batch)
        for view in (normal_view, extreme_view)
    )
    return make_view(config) if n.kind == "moco" else normal, distorted
