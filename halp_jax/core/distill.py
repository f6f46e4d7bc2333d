"""CMD: cross-modal mutual distillation (Mao et al., ECCV 2022), between the streams of one batch.

Each stream keeps a queue, and position i of every queue holds the same sample. So the similarities
of a clip to the queue are comparable between streams: a stream's key (the teacher) says which
samples are the clip's neighbours, and the other streams' queries (the students) learn to agree,

    L_CMD = sum over teacher a, student b != a of
            KL( softmax_I(z_k^a . N^a / tau_teacher) || softmax_I(z_q^b . N^b / tau_student) ),

with N the queue and I the teacher's top-k samples of it; the mean over the batch.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from halp_jax.core.sphere import similarities

FEW = 64  # neighbours that are found as fast by sorting


def neighbour_kl(
    teacher: Float[Array, "batch size"],
    student: Float[Array, "batch size"],
    *,
    topk: int,
    teacher_temperature: float,
    student_temperature: float,
) -> Float[Array, ""]:
    """KL between a teacher's and a student's view of the teacher's `topk` nearest samples.

    Args:
      teacher, student: similarities to the same samples, [batch, size]; no gradient reaches the
        teacher.
      topk: at most size.
    """
    teacher = jax.lax.stop_gradient(teacher)
    near = find_neighbours(teacher, topk)
    log_p = _log_softmax(teacher / teacher_temperature, near)
    log_q = _log_softmax(student / student_temperature, near)
    terms = jnp.where(near, jnp.exp(log_p) * (log_p - log_q), 0.0)
    return jnp.mean(jnp.sum(terms, axis=1))


def find_neighbours(similarity: Float[Array, "batch size"], topk: int) -> Bool[Array, "batch size"]:
    """Where the `topk` largest of each row stand; what is as large as the topk-th counts, too.

    A mask, for the backward pass of gathering half a queue is a scatter, dearer than all the rest.
    """
    if topk == 1:
        return similarity >= jnp.max(similarity, axis=1, keepdims=True)
    if topk <= FEW:
        return similarity >= jax.lax.top_k(similarity, topk)[0][:, -1:]
    return similarity >= find_kth(similarity, topk)


def find_kth(x: Float[Array, "batch size"], k: int) -> Float[Array, "batch 1"]:
    """The k-th largest of each row, bit by bit: in 32 counts, where `top_k` sorts half a queue."""

    def flip(bits):  # whole numbers in the order of the floats that they are the bits of
        return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)

    order = flip(jax.lax.bitcast_convert_type(x, jnp.int32))

    def look(bit, least):
        more = jnp.where(bit == 0, 0, least + jnp.left_shift(jnp.int32(1), 31 - bit))
        enough = jnp.sum(order >= more, axis=1, keepdims=True, dtype=jnp.int32) >= k
        return jnp.where(enough, more, least)

    least = jnp.full((len(x), 1), -(2**31), jnp.int32)
    least = jax.lax.fori_loop(0, 32, look, least)
    return jax.lax.bitcast_convert_type(flip(least), jnp.float32)


def cmd_loss(
    queries: Float[Array, "streams batch dim"],
    keys: Float[Array, "streams batch dim"],
    negatives: Float[Array, "streams size dim"],
    *,
    topk: int = 8192,
    teacher_temperature: float = 0.05,
    student_temperature: float = 0.1,
) -> tuple[Float[Array, ""], Float[Array, "streams streams"]]:
    """L_CMD of S streams, 0 for one, and its terms: [teacher, student], zeros on the diagonal.

    Args:
      queries, keys: unit vectors of the same batch in each stream, z_q and z_k.
      negatives: the queues, all filled with the same samples in the same order.
      topk: neighbours that a teacher passes on (released: 8192 of 16384).
    """
    keys, negatives = jax.lax.stop_gradient((keys, negatives))
    teachers = jax.vmap(similarities)(keys, negatives)
    students = jax.vmap(similarities)(queries, negatives)
    count = queries.shape[0]
    terms, teacher = jnp.zeros((count, count)), jnp.arange(count)
    distance = functools.partial(
        neighbour_kl, topk=topk, teacher_temperature=teacher_temperature,
        student_temperature=student_temperature,
    )  # fmt: skip
    for shift in range(1, count):  # every teacher beside its shift-th neighbour
        kl = jax.vmap(distance)(teachers, jnp.roll(students, -shift, axis=0))
        terms = terms.at[teacher, (teacher + shift) % count].set(kl)
    return jnp.sum(terms), terms


def _log_softmax(
    logits: Float[Array, "batch size"], mask: Bool[Array, "batch size"]
) -> Float[Array, "batch size"]:
    """log softmax over the entries of the mask; the others hold numbers without meaning."""
    total = jax.nn.logsumexp(logits, axis=1, where=mask, keepdims=True)
    return logits - total
