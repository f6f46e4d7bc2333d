"""How far restored frames are from the clip's own: the loss of P&C."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Frames = Float[Array, "batch time features"]


def absolute_error(
    restored: Frames, clips: Frames, length: Int[Array, "batch"], everywhere: bool = False
) -> Float[Array, ""]:
    """Sum over a frame of |x - x'|, its mean over the frames of a clip, then over clips.

    The loss of P&C (Su et al., CVPR 2020).

    Args:
        everywhere: a quirk of its PyTorch code: frames after the end are in the sum, though not counted.
    """
    errors = jnp.sum(jnp.abs(restored - clips), axis=2)
    there = everywhere | (jnp.arange(errors.shape[1]) < length[:, None])
    return jnp.mean(jnp.sum(errors * there, axis=1) / jnp.maximum(length, 1))
