"""EADM of AimCLR (Guo et al., AAAI 2022): the parts of a map that stand out most are dropped.

Source: net/att_drop.py of Levigty/AimCLR. The encoder has to do without its strongest evidence; no random
number is drawn. "Quirks" below are the released code's, and the defaults.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

SCALES = ("batch", "clip")
_SPREAD = 1e-4  # added to the variance

Map = Float[Array, "joints rows time channels"]


def find_attention(x: Map) -> Map:
    """How far each entry stands out of its channel, sigmoid(d / (4 (var + 1e-4)) + 1/2) in (0.6, 1)."""
    d = jnp.square(x - jnp.mean(x, (0, 2), keepdims=True))
    count = x.shape[0] * x.shape[2]
    var = jnp.sum(d, (0, 2), keepdims=True) / (count - 1)
    return jax.nn.sigmoid(d / (4 * (var + _SPREAD)) + 0.5)


def find_kept(
    x: Map, threshold: float, points: bool = True
) -> tuple[Bool[Array, "joints rows 1 1"], Bool[Array, "#joints rows time #channels"]]:
    """(joints, points in time) that are kept: those with less attention than `threshold`.

    Args:
        points: a quirk: each (joint, time, channel) has a mask of its own; else each frame.
    """
    attention = find_attention(x)
    joints = jnp.mean(attention, (2, 3), keepdims=True) < threshold
    if not points:
        attention = jnp.mean(attention, (0, 3), keepdims=True)
    return joints, attention < threshold


def drop_by_attention(
    x: Map,
    threshold: float = 0.7,
    *,
    points: bool = True,
    scale: str = "batch",
    axis_name: str | None = None,
) -> Map:
    """The map without what stands out, the rest scaled up by the shares that are kept.

    No gradient goes through the masks.

    Args:
        threshold: above 1 it keeps everything, as the release of December 2021 does.
        points: as in `find_kept`.
        scale: shares of the whole "batch" (a quirk) or of each row, a body of a "clip".
        axis_name: mapped axis over which the batch is spread.
    """
    for kept in find_kept(jax.lax.stop_gradient(x), threshold, points):
        kept = kept.astype(x.dtype)
        axes = None if scale == "batch" else (0, 2, 3)
        share = jnp.mean(kept, axes, keepdims=True)
        if scale == "batch" and axis_name is not None:
            share = jax.lax.pmean(share, axis_name)
        x = x * kept / jnp.where(share > 0, share, 1.0)
    return x
