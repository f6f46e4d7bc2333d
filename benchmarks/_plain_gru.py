"""The recurrence of `halp_jax.encoders.gru` in its plain form, with automatic gradients."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from halp_jax.encoders.gru import cell
from halp_jax.encoders.matmul import matmul


def scan_gru_reference(
    projected: Float[Array, "time batch gates"],
    w_hh: Float[Array, "width gates"],
    b_hh: Float[Array, " gates"],
) -> Float[Array, "time batch width"]:
    """`projected` is W_i x + b_i for all frames."""

    def step(hidden, projected_t):
        hidden, _ = cell(projected_t, matmul(hidden, w_hh, "float32") + b_hh, hidden)
        return hidden, hidden

    start = jnp.zeros((projected.shape[1], w_hh.shape[0]), projected.dtype)
    return jax.lax.scan(step, start, projected)[1]
