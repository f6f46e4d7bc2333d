"""Views of AimCLR (Guo et al., AAAI 2022), normal and extreme, and of AS-CAL (Rao et al. 2021).

Sources: feeder/ntu_feeder.py and feeder/tools.py of Levigty/AimCLR, feeders/tools.py of LZU-SIAT/AS-CAL. One
clip, one key -> one view; the caller vmaps. A clip is [time, bodies, joints, 3], all of its frames are valid.
Each part takes what it would draw as an argument; `normal_view`, `extreme_view` and `compose` draw, by
config.normal_view, config.extreme_view and config.ascal_view.

What is drawn differs: AimCLR turns about all three axes, two of them by a degree at most, its noise has a
fifth of AS-CAL's deviation, and an axis is set to 0 by chance.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Bool, Float

from halp_jax.skeletons.augment import Clip, Count, Rng, random_shear, transform
from halp_jax.skeletons.layout import Layout

TAPS = 15  # of the blur


def mirrored_crop(clip: Clip, start: Count, pad_ratio: int = 6) -> Clip:
    """As many frames, from `start` on, of the clip with 1 / pad_ratio of it mirrored at each end."""
    pad = count_padding(len(clip), pad_ratio)
    padded = jnp.concatenate([clip[:pad][::-1], clip, clip[len(clip) - pad :][::-1]])
    return jax.lax.dynamic_slice_in_dim(padded, start, len(clip))


def count_padding(time: int, pad_ratio: int) -> int:
    """Mirrored frames at each end of a clip of `time` frames."""
    return time // pad_ratio if pad_ratio else 0


def swap_sides(clip: Clip, layout: Layout, mirrors: bool = False) -> Clip:
    """Left and right joints exchanged; with `mirrors` x is negated, too."""
    order = jnp.arange(layout.num_joints)
    left, right = jnp.array(layout.left, int), jnp.array(layout.right, int)
    order = order.at[left].set(right).at[right].set(left)
    swapped = clip[:, :, order]
    return swapped * jnp.array([-1.0, 1.0, 1.0]) if mirrors else swapped


def rotate(clip: Clip, degrees: Float[Array, "3"]) -> Clip:
    """Turned about x, then y, then z: with i, j the axes next in the cycle
    i' = cos i + sin j and j' = cos j - sin i."""
    for axis, angle in enumerate(jnp.deg2rad(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        first, second = clip[..., i], clip[..., j]
        clip = clip.at[..., i].set(cos * first + sin * second)
        clip = clip.at[..., j].set(cos * second - sin * first)
    return clip


def blur(clip: Clip, sigma: Float[Array, ""] | float, normalized: bool = False) -> Clip:
    """Smoothed over time by exp(-i^2 / 2 sigma^2), i = -7 ... 7, with zeros around the clip."""
    place = jnp.arange(TAPS) - TAPS // 2
    taps = jnp.exp(-jnp.square(place) / (2.0 * jnp.square(sigma)))
    if normalized:
        taps = taps / jnp.sum(taps)
    padded = jnp.pad(clip, ((TAPS // 2, TAPS // 2), (0, 0), (0, 0), (0, 0)))
    return sum(taps[i] * padded[i : i + len(clip)] for i in range(TAPS))


def zero_axis(clip: Clip, axis: Count) -> Clip:
    """x, y or z set to 0."""
    return jnp.where(jnp.arange(3) == axis, 0.0, clip)


def normal_view(key: Rng, clip: Clip, settings: ml_collections.ConfigDict) -> Clip:
    """A mirrored crop, then a shear of column vectors."""
    key_crop, key_shear = jax.random.split(key)
    last = 2 * count_padding(len(clip), settings.pad_ratio)
    start = jax.random.randint(key_crop, (), 0, last + 1)
    view = mirrored_crop(clip, start, settings.pad_ratio)
    return transform(view, random_shear(key_shear, settings.shear).T)


def extreme_view(
    key: Rng,
    clip: Clip,
    normal: ml_collections.ConfigDict,
    extreme: ml_collections.ConfigDict,
    layout: Layout,
) -> Clip:
    """A normal view, then flip, rotation, noise, blur, an axis zeroed, time reversed: each by chance."""
    keys = jax.random.split(key, 11)
    view = normal_view(keys[0], clip, normal)

    def at_random(key, probability, changed, view):
        applied: Bool[Array, ""] = jax.random.uniform(key) < probability
        return jnp.where(applied, changed, view)

    flipped = swap_sides(view, layout, extreme.flip_mirrors)
    view = at_random(keys[1], extreme.flip_probability, flipped, view)
    widest = jnp.where(
        jnp.arange(3) == jax.random.randint(keys[2], (), 0, 3),
        extreme.rotation,
        extreme.rotation_rest,
    )
    view = rotate(view, widest * jax.random.uniform(keys[3], (3,)))
    noisy = view + extreme.noise * jax.random.normal(keys[4], view.shape)
    view = at_random(keys[5], extreme.noise_probability, noisy, view)
    sigma = jax.random.uniform(keys[6], minval=0.1, maxval=2.0)
    blurred = blur(view, sigma, extreme.blur_normalized)
    view = at_random(keys[7], extreme.blur_probability, blurred, view)
    flat = zero_axis(view, jax.random.randint(keys[8], (), 0, 3))
    view = at_random(keys[9], extreme.axis_probability, flat, view)
    return at_random(keys[10], extreme.reverse_probability, view[::-1], view)


# --- AS-CAL: parts in any order ---------------------------------------------------------------------


def minus_joint(clip: Clip, joint: int) -> Clip:
    """Each body of each frame moved so that one of its joints is at the origin."""
    return clip - clip[:, :, joint : joint + 1]


def cut_out(clip: Clip, joints: Bool[Array, " joints"], frames: Bool[Array, " time"]) -> Clip:
    """Some joints set to 0 in some frames."""
    return jnp.where(frames[:, None, None, None] & joints[:, None], 0.0, clip)


def random_subset(key: Rng, size: int, least: int, most: int) -> Bool[Array, " size"]:
    """Where of `size` places `least` to `most`, all as likely, are drawn without replacement."""
    key_count, key_places = jax.random.split(key)
    count = jax.random.randint(key_count, (), least, most + 1)
    rank = jnp.argsort(jnp.argsort(jax.random.uniform(key_places, (size,))))
    return rank < count


def _reverse(key, clip, settings):
    backward = jax.random.uniform(key) < settings.reverse_probability
    return jnp.where(backward, clip[::-1], clip)


def _shear(key, clip, settings):
    return transform(clip, random_shear(key, settings.shear).T)


def _rotate(key, clip, settings):
    key_axis, key_angle = jax.random.split(key)
    axis = jnp.arange(3) == jax.random.randint(key_axis, (), 0, 3)
    return rotate(clip, axis * jax.random.uniform(key_angle, maxval=settings.rotation))


def _cut_out(key, clip, settings):
    key_joints, key_frames = jax.random.split(key)
    joints = random_subset(key_joints, clip.shape[2], *settings.cut_joints)
    return cut_out(clip, joints, random_subset(key_frames, len(clip), *settings.cut_frames))


def _zero_axis(key, clip, settings):
    return zero_axis(clip, jax.random.randint(key, (), 0, 3))


def _blur(key, clip, settings):
    key_chance, key_sigma = jax.random.split(key)
    sigma = jax.random.uniform(key_sigma, minval=0.1, maxval=2.0)
    blurred = blur(clip, sigma, settings.blur_normalized)
    return jnp.where(jax.random.uniform(key_chance) < settings.blur_probability, blurred, clip)


# Each is a function (key, clip, settings) -> clip.
PARTS: dict[str, Callable[[Rng, Clip, ml_collections.ConfigDict], Clip]] = {
    "minus_joint": lambda key, clip, settings: minus_joint(clip, settings.joint),
    "reverse": _reverse, "shear": _shear, "rotate": _rotate, "cut_out": _cut_out,
    "zero_axis": _zero_axis, "blur": _blur,
    "noise": lambda key, clip, settings: clip + settings.noise * jax.random.normal(key, clip.shape),
}  # fmt: skip


def compose(key: Rng, clip: Clip, settings: ml_collections.ConfigDict) -> Clip:
    """The clip after `settings.parts`, names of PARTS, one after the other."""
    for number, name in enumerate(settings.parts):
        clip = PARTS[name](jax.random.fold_in(key, number), clip, settings)
    return clip
