"""Contrastive losses: InfoNCE with a queue (MoCo), and NT-Xent within the batch (GraphCL, MS2L)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from halp_jax.core.sphere import similarities


def info_nce(
    queries: Float[Array, "batch dim"],
    keys: Float[Array, "batch dim"],
    negatives: Float[Array, "size dim"],
    temperature: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """L_CL = -log softmax of each query's similarity to its key among the negatives, batch mean.

    Van den Oord et al. 2018, with the queue of He et al., CVPR 2020.

    Returns the loss and the contrast accuracy: the share of queries closer to their key than to
    every negative. No gradient reaches keys or negatives.
    """
    keys, negatives = jax.lax.stop_gradient((keys, negatives))
    positive = jnp.sum(queries * keys, axis=-1) / temperature
    negative = similarities(queries, negatives) / temperature
    total = jnp.logaddexp(positive, jax.nn.logsumexp(negative, axis=-1))
    accuracy = jnp.mean(positive > jnp.max(negative, axis=-1))
    return jnp.mean(total - positive), accuracy


def one_sided_nt_xent(
    anchors: Float[Array, "batch dim"],
    others: Float[Array, "all dim"],
    own: Int[Array, " batch"],
    there: Bool[Array, "all"],
    temperature: float,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """-s_ii + log sum_{j != i} exp s_ij with s = similarity / temperature, for each anchor.

    As GraphCL's released code has it: the positive is not in the sum, so the loss may be negative, and
    the views change roles nowhere.

    Args:
        anchors, others: unit vectors of the two views; `others` of all devices.
        own: the row of `others` that is each anchor's positive.
        there: rows of `others` that are no padding.

    Returns the losses and whether the positive is the closest; 0 for padding and for an anchor that
    is alone.
    """
    s = similarities(anchors, others) / temperature
    negative = there & (jnp.arange(len(others)) != own[:, None])
    counts = there[own] & jnp.any(negative, axis=1)
    total = jax.nn.logsumexp(
        jnp.where(negative, s, -jnp.inf), axis=1, where=negative | ~counts[:, None]
    )
    positive = jnp.take_along_axis(s, own[:, None], axis=1)[:, 0]
    closest = positive > jnp.max(jnp.where(negative, s, -jnp.inf), axis=1)
    return jnp.where(counts, total - positive, 0.0), (closest & counts).astype(s.dtype)


def nt_xent(
    points: Float[Array, "batch dim"],
    others: Float[Array, "all dim"],
    own: Int[Array, " batch"],
    partner: Int[Array, " batch"],
    temperature: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """-log softmax at each point's partner among all others, batch mean: NT-Xent of SimCLR, both ways.

    As MS2L's released code has it (Lin et al., MM 2020): a point's similarity to itself is not left out
    but set to -1.

    Args:
        points: unit vectors, of both views.
        others: those of all devices.
        own, partner: the rows of `others` that are each point itself and its other view.

    Returns the loss and the share of points closest to their partner. Gradients reach `others`, too.
    """
    itself = jnp.arange(len(others)) == own[:, None]
    s = jnp.where(itself, -1.0, similarities(points, others)) / temperature
    positive = jnp.take_along_axis(s, partner[:, None], axis=1)[:, 0]
    closest = jnp.mean(positive >= jnp.max(s, axis=1))
    return jnp.mean(jax.nn.logsumexp(s, axis=1) - positive), closest


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
