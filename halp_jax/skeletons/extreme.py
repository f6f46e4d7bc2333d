"""Views of AimCLR (Guo et al., AAAI 2022): a normal one, and an extreme one that five more parts distort.

Source: feeder/ntu_feeder.py and feeder/tools.py of Levigty/AimCLR. One clip, one key -> one view; the caller
vmaps. A clip is [time, bodies, joints, 3], all of its frames are valid. Each part takes what it would
draw as an argument; `normal_view` and `extreme_view` draw. "Quirks" are the released code's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from halp_jax.skeletons.augment import Clip, Count, Rng, random_shear, transform
from halp_jax.skeletons.layout import Layout

TAPS = 15  # of the blur


class NormalSettings(NamedTuple):
    """Settings of a normal view; the defaults are the released ones."""

    pad_ratio: int = 6  # a sixth of the clip is mirrored at each end; 0: no crop
    shear: float = 0.5


class ExtremeSettings(NamedTuple):
    """Settings of what is done to a normal view besides; the defaults are the released ones."""

    flip_probability: float = 0.5
    flip_mirrors: bool = False  # a quirk: sides are swapped, but x is not negated
    rotation: float = 30.0  # degrees, about an axis that is drawn
    rotation_rest: float = 1.0  # about the other two
    noise_probability: float = 0.5
    noise: float = 0.01  # standard deviation, in units of the clip
    blur_probability: float = 0.5
    blur_normalized: bool = False  # a quirk: the taps add up to 1 to 5
    axis_probability: float = 0.5  # one of x, y, z is set to 0
    reverse_probability: float = 0.0  # 1/2 in the release of December 2021


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


def normal_view(key: Rng, clip: Clip, settings: NormalSettings) -> Clip:
    """A mirrored crop, then a shear of column vectors."""
    key_crop, key_shear = jax.random.split(key)
    last = 2 * count_padding(len(clip), settings.pad_ratio)
    start = jax.random.randint(key_crop, (), 0, last + 1)
    view = mirrored_crop(clip, start, settings.pad_ratio)
    return transform(view, random_shear(key_shear, settings.shear).T)


def extreme_view(
    key: Rng, clip: Clip, normal: NormalSettings, extreme: ExtremeSettings, layout: Layout
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
