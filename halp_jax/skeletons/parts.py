"""Parts that views are composed of: the eight of AS-CAL (Rao et al. 2021), in any order.

Source: feeders/tools.py of LZU-SIAT/AS-CAL. One clip, one key -> one view; the caller vmaps. A clip is
[time, bodies, joints, 3], all of its frames are valid. Shear, blur, the turn about an axis and the axis set to 0
are those of AimCLR (augment.py, extreme.py), and so are the reversal in time and the noise. What is drawn for
them differs: AimCLR turns about all three axes, two of them by a degree at most, its noise has a fifth of
this deviation, and an axis is set to 0 by chance.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from halp_jax.skeletons.augment import Clip, Rng, random_shear, transform
from halp_jax.skeletons.extreme import blur, rotate, zero_axis


class Settings(NamedTuple):
    """Settings of all parts; the defaults are the released ones."""

    joint: int = 1  # from 0; what minus_joint puts at the origin (NTU, Kinect: the spine's middle)
    reverse_probability: float = 0.5
    shear: float = 1.0
    rotation: float = 30.0  # degrees at most, about an axis that is drawn
    cut_joints: tuple[int, int] = (5, 15)  # least and most
    cut_frames: tuple[int, int] = (50, 100)  # released: (20, 50) in clips of less than 100 frames
    blur_probability: float = 0.5
    blur_normalized: bool = False  # a quirk: the taps add up to 1 to 5
    noise: float = 0.05  # standard deviation, in units of the clip


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
PARTS: dict[str, Callable[[Rng, Clip, Settings], Clip]] = {
    "minus_joint": lambda key, clip, settings: minus_joint(clip, settings.joint),
    "reverse": _reverse, "shear": _shear, "rotate": _rotate, "cut_out": _cut_out,
    "zero_axis": _zero_axis, "blur": _blur,
    "noise": lambda key, clip, settings: clip + settings.noise * jax.random.normal(key, clip.shape),
}  # fmt: skip


def compose(key: Rng, clip: Clip, names: Sequence[str], settings: Settings) -> Clip:
    """The clip after these of PARTS, one after the other."""
    for number, name in enumerate(names):
        clip = PARTS[name](jax.random.fold_in(key, number), clip, settings)
    return clip
