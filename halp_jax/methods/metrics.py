"""Figures worth watching that are no part of the loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from halp_jax.methods.base import AXIS


def spread(
    z_q: Float[Array, "batch dim"], z_k: Float[Array, "batch dim"], every: Float[Array, "all dim"]
) -> dict[str, Array]:
    """Alignment and uniformity (Wang & Isola 2020) of the global batch.

    `z_q` and `z_k` are this device's, `every` is the keys of all.
    """
    count, total = len(z_k), len(every)
    alignment = jnp.mean(jnp.sum(jnp.square(z_q - z_k), axis=-1))
    own = jax.lax.axis_index(AXIS) * count + jnp.arange(count)
    others = jnp.arange(total) != own[:, None]
    squares = (jnp.sum(jnp.square(z), axis=-1) for z in (z_k, every))
    near = jnp.exp(4.0 * z_k @ every.T - 2.0 * jnp.add.outer(*squares)) * others
    mean = jax.lax.pmean(jnp.sum(near) / (count * max(total - 1, 1)), AXIS)
    return jax.lax.stop_gradient(
        {"alignment": alignment, "uniformity": jnp.log(jnp.maximum(mean, 1e-30))}
    )
