"""The three streams of a clip: joint positions, their motion, the bones (AS-CAL / 2s-AGCN / CMD)."""

import jax.numpy as jnp

from halp_jax.skeletons.augment import Clip
from halp_jax.skeletons.layout import Layout

STREAMS = ("joint", "motion", "bone")


def make_stream(frames: Clip, name: str, layout: Layout) -> Clip:
    """One stream of a clip [time, bodies, joints, 3].

    motion is the difference to the next frame, the last frame 0; bone is a joint minus its parent,
    the root 0.
    """
    if name == "joint":
        return frames
    if name == "motion":
        return jnp.concatenate([frames[1:] - frames[:-1], jnp.zeros_like(frames[:1])])
    if name == "bone":
        return frames - frames[:, :, jnp.array(layout.parents)]
    raise ValueError(f"unknown stream {name!r}: one of {', '.join(STREAMS)}")
