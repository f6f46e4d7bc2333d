"""InfoNCE with a memory queue (van den Oord et al. 2018; MoCo, He et al., CVPR 2020)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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


def contrast_logits(
    queries: Float[Array, "batch dim"],
    keys: Float[Array, "batch dim"],
    negatives: Float[Array, "size dim"],
    temperature: float,
) -> Float[Array, "batch entries"]:
    """Similarities of each query to its key, the first column, and to the queue, over tau.

    No gradient reaches keys or negatives.
    """
    keys, negatives = jax.lax.stop_gradient((keys, negatives))
    positive = jnp.sum(queries * keys, axis=-1, keepdims=True)
    return jnp.concatenate([positive, similarities(queries, negatives)], axis=1) / temperature


def mean_over_positives(
    logits: Float[Array, "batch entries"], positive: Bool[Array, "batch entries"]
) -> Float[Array, ""]:
    """-log softmax at the entries that are positive: their mean in each row, then the batch mean.

    With the key alone it is InfoNCE; with neighbours besides, the loss of AimCLR's and CrosSCLR's mining.
    """
    losses = -jax.nn.log_softmax(logits, axis=1)
    return jnp.mean(jnp.sum(losses * positive, axis=1) / jnp.sum(positive, axis=1))


def distribution_loss(
    teacher: Float[Array, "batch entries"], student: Float[Array, "batch entries"]
) -> Float[Array, ""]:
    """D3M of AimCLR (Guo et al., AAAI 2022): the cross entropy of the student's softmax to the teacher's.

    No gradient reaches the teacher.
    """
    target = jax.lax.stop_gradient(jax.nn.softmax(teacher, axis=1))
    return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(student, axis=1), axis=1))


def first_is_best(logits: Float[Array, "batch entries"]) -> Float[Array, ""]:
    """The contrast accuracy: the share of rows whose first entry is the largest."""
    return jnp.mean(logits[:, 0] > jnp.max(logits[:, 1:], axis=1))
