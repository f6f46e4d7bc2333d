"""Steps of CrosSCLR against the recorded ones, its quirks and what it is without them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _aimclr import (
    compare,
    compile_step,
    config,
    make_views,
    read_state,
    read_written,
    recorded_state,
)
from _released import relative_error

from halp_jax.core.cross_view import cross_logits, cross_loss
from halp_jax.core.sphere import similarities
from halp_jax.methods import crossclr

THREE, TWO = ("joint", "motion", "bone"), ("joint", "motion")
ENDINGS = dict(zip(THREE, ("", "_motion", "_bone"), strict=True))
STEPS = {"step_crossclr3_before": (THREE, 1), "step_crossclr3": (THREE, 151)}
STEPS |= {"step_crossclr2": (TWO, 151)}


@functools.cache
def compiled(names):
    return compile_step(config("crossclr", "ntu60_xsub", names))


@functools.cache
def recorded_run(golden, name):
    """(reference, state before, state after, metrics, gradients) of a recorded step."""
    names, epoch = STEPS[name]
    reference, inputs = golden(f"aimclr/{name}"), golden("aimclr/inputs")
    c = config("crossclr", "ntu60_xsub", names)
    state = recorded_state(golden("aimclr/state_cross"), c, epoch, shared=True)
    views = make_views(c, inputs["im_q"], inputs["im_k"])
    return reference, state, *compiled(names)(state, views)


@pytest.mark.long
@pytest.mark.parametrize("name", STEPS)
def test_losses(golden, name):
    reference, _, _, metrics, _ = recorded_run(golden, name)
    names = STEPS[name][0]
    kind = "loss_cl" if "before" in name else "loss_cross"
    for stream in names if "before" in name else ():
        assert relative_error(metrics[f"loss_cl_{stream}"], reference[f"loss_{stream}"]) < 1e-5
    total = sum(reference[f"loss_{stream}"] for stream in names)
    assert relative_error(metrics["loss"], total) < 1e-5 and kind in metrics


@pytest.mark.long
@pytest.mark.parametrize("name", STEPS)
def test_gradients_and_the_state_after(golden, name):
    reference, _, after, _, grads = recorded_run(golden, name)
    names = STEPS[name][0]
    assert compare(read_written(grads, "encoder_q", names, shared=True), reference, "grad/", 1e-4)
    assert compare(read_state(after, names, shared=True), reference, "after/", 1e-5)
    if "before" in name:
        for i, stream in enumerate(names):
            keys = after.extra["queue"].keys[i, 40:48].T
            assert relative_error(keys, reference[f"queue{ENDINGS[stream]}_new_columns"]) < 1e-5
            assert after.extra["queue"].head[i] == 48


@pytest.mark.long
@pytest.mark.parametrize("name", STEPS)
def test_the_shared_head_stays_one_and_only_the_released_key_encoders_move(golden, name):
    _, before, after, _, _ = recorded_run(golden, name)
    names = STEPS[name][0]
    for params in (after.params, after.extra["key_params"]):
        for leaf in jax.tree.leaves(params["head"]):
            assert all(np.array_equal(leaf[0], copy) for copy in leaf)
    was, now = before.extra["key_params"], after.extra["key_params"]
    moved = [
        bool((was["block3"]["w_time"][i] != now["block3"]["w_time"][i]).any())
        for i in range(len(names))
    ]
    assert moved == [True] * 3 if "before" in name else moved == [False, True, False][: len(names)]
    assert (was["head"]["out"]["kernel"] != now["head"]["out"]["kernel"]).any()


@pytest.mark.parametrize("name", ["step_crossclr3", "step_crossclr3_nocontext_topk2"])
def test_logits_and_masks_of_every_pair_from_the_recorded_points(golden, name):
    reference, arrays = golden(f"aimclr/{name}"), golden("aimclr/state_cross")
    q, k = (jnp.stack([jnp.asarray(reference[f"{w}{e}"]) for e in ENDINGS.values()]) for w in "qk")
    queues = jnp.stack([jnp.asarray(arrays[f"queue{e}"].T) for e in ENDINGS.values()])
    settings = {"topk": 2, "context": False} if "topk2" in name else {}
    loss, terms = cross_loss(q, k, queues, 0.07, **settings)
    assert relative_error(loss, sum(reference[f"loss_{s}"] for s in THREE)) < 1e-6
    near = jax.vmap(similarities)(q, queues)
    for a, b in [(a, b) for a in range(3) for b in range(3) if a != b]:
        pair = THREE[a][0] + THREE[b][0]
        assert relative_error(terms[a, b], reference[f"loss_{pair}"]) < 1e-6
        positive = jnp.sum(q[a] * k[a], -1)
        logits, marks = cross_logits(positive, near[a], near[b], 0.07, **settings)
        assert relative_error(logits, reference[f"logits_{pair}"]) < 1e-6
        assert np.array_equal(marks, reference[f"mask_{pair}"])


def test_gradients_of_the_loss_between_streams_reach_both():
    q, k, n = (
        jax.random.normal(jax.random.key(i), s)
        for i, s in enumerate([(2, 4, 8)] * 2 + [(2, 16, 8)])
    )
    for context in (True, False):
        one = jax.jit(jax.grad(lambda q, c=context: cross_loss(q, k, n, 1.0, 1, c)[1][0, 1]))(q)
        assert bool(jnp.any(one[1])) is context and bool(jnp.any(one[0]))


def test_copies_of_a_head_have_the_gradient_of_one():
    w = jnp.full((3, 2), 1.5)
    x = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])

    def loss(w):
        return jnp.sum(
            jax.vmap(lambda w, x: crossclr.sum_gradients(w) @ x, axis_name="streams")(w, x)
        )

    value, gradient = jax.value_and_grad(loss)(w)
    assert float(value) == 1.5 * 21
    np.testing.assert_array_equal(gradient, jnp.broadcast_to(x.sum(0), (3, 2)))
