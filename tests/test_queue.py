"""The memory queue and InfoNCE."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halp_jax.core.contrast import info_nce
from halp_jax.core.queue import create_queue, newest, push


def rows(first, count):
    return jnp.arange(first, first + count, dtype=jnp.float32)[:, None] * jnp.ones((1, 3))


def test_oldest_keys_are_overwritten_first():
    queue = create_queue(jax.random.key(0), 8, 3)
    np.testing.assert_allclose(jnp.linalg.norm(queue.keys, axis=1), 1.0, atol=1e-6)
    assert int(queue.pushed) == 0
    for step in range(5):  # 20 keys into 8 places
        queue = push(queue, rows(4 * step, 4))
    assert sorted(np.asarray(queue.keys[:, 0])) == list(range(12, 20))
    assert int(queue.pushed) == 20 and int(queue.head) == 4


def test_double_precision_switched_on_for_all_of_jax_changes_nothing():
    with jax.enable_x64(True):
        queue = push(create_queue(jax.random.key(0), 8, 3), rows(0, 4).astype(jnp.float64))
        assert queue.keys.dtype == jnp.float32 and queue.head.dtype == jnp.int32
        np.testing.assert_array_equal(newest(queue, 4), rows(0, 4))


@pytest.mark.parametrize("pushes", [1, 2, 3, 5])
def test_newest_come_in_order_also_across_the_seam(pushes):
    queue = create_queue(jax.random.key(0), 12, 3)
    for step in range(pushes):
        queue = push(queue, rows(4 * step, 4))
    count = min(8, 4 * pushes)
    np.testing.assert_array_equal(
        newest(queue, count)[:, 0], np.arange(4 * pushes - count, 4 * pushes)
    )


def test_no_key_is_lost_at_the_seam_by_a_batch_of_another_size():
    """A warm start: 3 batches of 8 before, batches of 7 from then on, in a queue of 56."""
    queue = create_queue(jax.random.key(0), 56, 3)
    for step in range(3):
        queue = push(queue, rows(8 * step, 8))
    for step in range(20):
        queue = jax.jit(push)(queue, rows(24 + 7 * step, 7))
    np.testing.assert_array_equal(newest(queue, 56)[:, 0], np.arange(164 - 56, 164))


def test_padding_takes_no_place():
    """The keys that are there stand as if they had come alone, across the seam, too."""
    alone = padded = create_queue(jax.random.key(0), 10, 3)
    for step in range(7):
        there = np.random.default_rng(step).random(6) < 0.6
        keys = rows(6 * step, 6)
        alone = push(alone, keys[there])
        padded = jax.jit(push)(padded, keys, there)
        jax.tree.map(np.testing.assert_array_equal, padded, alone)


def test_misfits_are_refused():
    queue = create_queue(jax.random.key(0), 10, 3)
    with pytest.raises(ValueError, match="cannot hold a batch of 11"):
        push(queue, rows(0, 11))
    with pytest.raises(ValueError, match="newest 11 of a queue of 10"):
        newest(queue, 11)


def test_info_nce_is_the_cross_entropy_of_the_key():
    rng = np.random.default_rng(0)
    q, k, n = (rng.normal(size=s).astype(np.float32) for s in ((6, 5), (6, 5), (9, 5)))
    logits = np.concatenate([np.sum(q * k, 1, keepdims=True), q @ n.T], axis=1) / 0.3
    wanted = np.mean(np.log(np.exp(logits).sum(1)) - logits[:, 0])
    loss, accuracy = info_nce(jnp.asarray(q), jnp.asarray(k), jnp.asarray(n), 0.3)
    assert float(loss) == pytest.approx(wanted, rel=1e-5)
    assert float(accuracy) == pytest.approx(np.mean(logits.argmax(1) == 0))


def test_info_nce_teaches_the_query_alone():
    q, k, n = rows(1, 2), rows(3, 2), rows(5, 4)
    to_q, to_k, to_n = jax.grad(lambda *x: info_nce(*x, 10.0)[0], (0, 1, 2))(q, k, n)
    assert float(jnp.max(jnp.abs(to_q))) > 0
    assert float(jnp.max(jnp.abs(to_k))) == float(jnp.max(jnp.abs(to_n))) == 0
