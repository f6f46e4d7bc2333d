"""InfoNCE with a memory queue (van den Oord et al. 2018; MoCo, He et al., CVPR 2020)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from halp_jax.core.sphere import similarities


def info_nce(
    queries: Float[Array, "batch dim"],
    keys: Float[Array, "batch dim"],
    negatives: Float[Array, "size dim"],
    temperature: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """L_CL = -log softmax of each query's similarity to its key among the negatives, batch mean.

    Returns the loss and the contrast accuracy: the share of queries closer to their key than to
    every negative. No gradient reaches keys or negatives.
    """
    keys, negatives = jax.lax.stop_gradient((keys, negatives))
    positive = jnp.sum(queries * keys, axis=-1) / temperature
    negative = similarities(queries, negatives) / temperature
    total = jnp.logaddexp(positive, jax.nn.logsumexp(negative, axis=-1))
    accuracy = jnp.mean(positive > jnp.max(negative, axis=-1))
    return jnp.mean(total - positive), accuracy
