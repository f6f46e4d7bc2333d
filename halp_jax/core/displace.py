"""What GL-Transformer (Kim et al., ECCV 2022) has to tell of every joint: where it came from, and how far.

The displacement over an interval i is x(t - i) - x(t), frame 0 standing for all before it. Its direction is one of
27 classes, by the signs of its coordinates; its length one of 16: 0, none at all; 1 to 14, steps of a
centimetre, the last without an end; 15, the body is not there. Source: feeder/ntu_feeder.py and
learn_PTmodel.py of Boeun-Kim/GL-Transformer.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

DIRECTIONS, LENGTHS = 27, 16

Clip = Float[Array, "time bodies joints xyz"]
Classes = Int[Array, "*batch time intervals joints bodies"]


def classify(clip: Clip, intervals: Sequence[int], step: float = 0.01) -> tuple[Classes, Classes]:
    """(directions, lengths) of all joints' displacements.

    A body that frame 0 does not show counts as absent from all of the clip: a quirk.

    Args:
        step: of the classes of length, in units of the clip.
    """
    time, present = jnp.arange(len(clip)), jnp.any(clip[0] != 0, axis=(1, 2))
    displaced = jnp.stack([clip[jnp.maximum(time - i, 0)] - clip for i in intervals], axis=1)
    signs = jnp.sign(displaced).astype(jnp.int32) + 1
    direction = signs @ jnp.array([1, 3, 9])
    size = jnp.sqrt(jnp.sum(jnp.square(displaced), axis=-1))
    length = jnp.minimum(jnp.floor(size / step).astype(jnp.int32) + 1, 14)
    length = jnp.where(present[:, None], jnp.where(size > 0, length, 0), 15)
    return jnp.swapaxes(direction, 2, 3), jnp.swapaxes(length, 2, 3)


def cross_entropies(
    logits: Float[Array, "batch time intervals joints bodies classes"],
    classes: Int[Array, "batch time intervals joints bodies"],
    there: Bool[Array, "batch time"],
    root: int,
    frames: Float[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """(of joints, of the body's way, share of joints told right), means over valid frames.

    The way is the root's displacement over the first interval. Over the others it counts among the joints: a
    quirk.

    Args:
        frames: how many are valid, in the mean over devices.
    """
    # The gradient of a sum is faster on a CPU than that of a gather.
    own = jnp.arange(logits.shape[-1]) == classes[..., None]
    right = jnp.sum(logits, axis=-1, where=own)
    way = jnp.zeros(classes.shape[2:], bool).at[0, root].set(True)

    def mean(values, kept):
        total = jnp.sum(values, where=kept & there[..., None, None, None])
        return total / jnp.maximum(frames * jnp.sum(kept), 1)

    losses = jax.nn.logsumexp(logits, axis=-1) - right
    told = right >= jnp.max(logits, axis=-1)
    return mean(losses, ~way), mean(losses, way), mean(told, ~way)
