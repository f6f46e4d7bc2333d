"""Figures worth watching that are no part of the loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def spread(z_q: Float[Array, "batch dim"], z_k: Float[Array, "batch dim"]) -> dict[str, Array]:
    """Alignment and uniformity (Wang & Isola 2020) of the local batch."""
    alignment = jnp.mean(jnp.sum(jnp.square(z_q - z_k), axis=-1))
    square = jnp.sum(jnp.square(z_k), axis=-1)
    pairs = square[:, None] + square - 2.0 * z_k @ z_k.T
    others = ~jnp.eye(z_k.shape[0], dtype=bool)
    mean = jnp.sum(jnp.exp(-2.0 * pairs) * others) / jnp.maximum(jnp.sum(others), 1)
    return jax.lax.stop_gradient(
        {"alignment": alignment, "uniformity": jnp.log(jnp.maximum(mean, 1e-30))}
    )
