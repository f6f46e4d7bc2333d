"""How far restored frames are from the clip's own: the losses of P&C and of MS2L's motion prediction."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Frames = Float[Array, "batch time features"]


def absolute_error(
    restored: Frames, clips: Frames, length: Int[Array, " batch"], everywhere: bool = False
) -> Float[Array, ""]:
    """Sum over a frame of |x - x'|, its mean over the frames of a clip, then over clips.

    The loss of P&C (Su et al., CVPR 2020).

    Args:
        everywhere: a quirk of its PyTorch code: frames after the end are in the sum, though not counted.
    """
    errors = jnp.sum(jnp.abs(restored - clips), axis=2)
    there = everywhere | (jnp.arange(errors.shape[1]) < length[:, None])
    return jnp.mean(jnp.sum(errors * there, axis=1) / jnp.maximum(length, 1))


def squared_error(
    restored: Frames, clips: Frames, length: Int[Array, " batch"]
) -> Float[Array, ""]:
    """Mean square of x - x' over all numbers; x' is taken as 0 after the end of a clip, where x is 0.

    Motion prediction of MS2L (Lin et al., MM 2020). Frames after the end count in the mean.
    """
    there = jnp.arange(restored.shape[1]) < length[:, None]
    return jnp.mean(jnp.square(restored * there[..., None] - clips))
