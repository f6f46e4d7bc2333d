"""The convolution over time of graph encoders, in the form that XLA is fastest at (PERFORMANCE.md)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from halp_jax.encoders.matmul import Precision, matmul

TAPS = 9
FEW = 512  # frames times channels up to which one product for all frames is the fastest on a CPU


def convolve_time(
    x: Float[Array, "first second time inputs"],
    weights: Float[Array, "taps inputs outputs"],
    stride: int,
    precision: Precision,
) -> Float[Array, "first second new_time outputs"]:
    """Each output frame from the nine around it, zeros outside of the clip."""
    x = compute_once(x)
    convolve = multiply_by_band if x.shape[2] * x.shape[3] <= FEW else _convolve
    return compute_once(convolve(x, weights, stride, precision))


def _convolve(x, weights, stride, precision):
    first, second, time, channels = x.shape
    if precision == "bfloat16":
        x, weights = x.astype(jnp.bfloat16), weights.astype(jnp.bfloat16)
    y = jax.lax.conv_general_dilated(
        x.reshape(first * second, time, channels), weights, (stride,), ((TAPS // 2, TAPS // 2),),
        dimension_numbers=("NWC", "WIO", "NWC"),
        precision={"float32": "highest", "tensorfloat32": "high"}.get(precision),
    )  # fmt: skip
    return y.reshape(first, second, *y.shape[1:]).astype(jnp.float32)


def multiply_by_band(x, weights, stride, precision):
    """All frames of a row times one matrix, zero where an input is in no window of the output."""
    *rows, time, channels = x.shape
    outputs = np.arange(0, time, stride)
    tap = np.arange(time)[:, None] - outputs + TAPS // 2  # of each input in each output's window
    seen = ((tap >= 0) & (tap < TAPS))[..., None, None]
    band = jnp.where(seen, weights[np.clip(tap, 0, TAPS - 1)], 0.0)  # [time, new_time, in, out]
    band = jnp.swapaxes(band, 1, 2).reshape(time * channels, -1)
    y = matmul(x.reshape(*rows, time * channels), band, precision)
    return y.reshape(*rows, len(outputs), -1)


def compute_once(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x, and so is its gradient.

    On a CPU XLA computes a map anew in every loop that reads it, back to the product it came from, and
    through skips that is many blocks. It stops at a condition that it cannot decide, whose sides differ.
    """
    return jax.lax.platform_dependent(x, cpu=_compute_once, default=lambda x: x)


@jax.custom_vjp
def _compute_once(x):
    return _hold(x)


_compute_once.defvjp(lambda x: (_hold(x), None), lambda _, d_x: (_hold(d_x),))


@jax.custom_batching.custom_vmap
def _hold(x):
    return jax.lax.cond(
        x.ravel()[0] >= 0, lambda x: x, lambda x: jnp.where(jnp.isnan(x), jnp.nan, x), x
    )


@_hold.def_vmap
def _hold_batch(axis_size, batched, x):
    return _hold(x), batched[0]
