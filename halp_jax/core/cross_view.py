"""CrosSCLR (Li et al., CVPR 2021): one stream learns the neighbours that another one finds.

Position i of every queue holds the same sample. For stream a, the other stream b tells which samples
are a clip's neighbours, and the similarities of both multiplied are a second row of logits, the
"context":

    [q_a.k_a,  n_a,  n_a * n_b] / tau,     n = similarities of a stream's query to its own queue.

Positives are the key, b's nearest sample, and the same sample in the context.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from halp_jax.core.contrast import mean_over_positives
from halp_jax.core.distill import find_neighbours
from halp_jax.core.sphere import similarities


def cross_logits(
    positive: Float[Array, " batch"],
    own: Float[Array, "batch size"],
    other: Float[Array, "batch size"],
    temperature: float,
    topk: int = 1,
    context: bool = True,
) -> tuple[Float[Array, "batch entries"], Bool[Array, "batch entries"]]:
    """(logits of stream a, where its positives are); gradients go to both streams.

    Args:
        positive: q_a.k_a.
        own, other: n_a and n_b.
        topk: neighbours that stream b finds.
        context: without it the products are left out.
    """
    near = find_neighbours(jax.lax.stop_gradient(other), topk)
    rows = [positive[:, None], own, own * other]
    marks = [jnp.ones_like(rows[0], bool), near, near]
    count = 3 if context else 2
    return jnp.concatenate(rows[:count], 1) / temperature, jnp.concatenate(marks[:count], 1)


def cross_loss(
    queries: Float[Array, "streams batch dim"],
    keys: Float[Array, "streams batch dim"],
    negatives: Float[Array, "streams size dim"],
    temperature: float,
    topk: int = 1,
    context: bool = True,
) -> tuple[Float[Array, ""], Float[Array, "streams streams"]]:
    """The sum over streams of the mean over its teachers; and all terms [student, teacher].

    Args:
        queries, keys: unit vectors of the same batch in two streams or more.
        negatives: the queues, all filled with the same samples in the same order.
    """
    keys, negatives = jax.lax.stop_gradient((keys, negatives))
    positive = jnp.sum(queries * keys, axis=-1)
    near = jax.vmap(similarities)(queries, negatives)
    count = len(queries)
    terms = jnp.zeros((count, count))
    for a in range(count):
        for b in set(range(count)) - {a}:
            logits, marks = cross_logits(positive[a], near[a], near[b], temperature, topk, context)
            terms = terms.at[a, b].set(mean_over_positives(logits, marks))
    return jnp.sum(terms) / (count - 1), terms
