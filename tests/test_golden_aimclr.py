"""Steps of AimCLR, SkeletonCLR and HaLP on AimCLR against the recorded ones: losses to state."""

import functools
import re

import jax.numpy as jnp
import numpy as np
import optax
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
from _released import mark_long, recorded_draws, relative_error, replayed_halp

from halp_jax.core.contrast import contrast_logits, distribution_loss, mean_over_positives
from halp_jax.core.distill import find_neighbours

STEPS = {  # variant, epoch from 1
    "step_aimclr": ("ntu60_xsub", 1), "step_nnm": ("ntu60_xsub", 151),
    "step_halp_aimclr": ("ntu60_xsub+halp", 1), "step_skeletonclr": ("ntu60_xsub+skeletonclr", 1),
}  # fmt: skip
STREAMS = ("joint", "motion", "bone")


def make_config(variant):
    c = config("aimclr", variant, STREAMS if "skeletonclr" in variant else ("joint",))
    c.halp.start_epoch = 0
    c.encoder.stgcn.remat = (
        variant == "ntu60_xsub"
    )  # both forms of the blocks are held to the arrays
    return c


@functools.cache
def compiled(golden, variant):
    if "halp" not in variant:
        return compile_step(make_config(variant))
    draws = recorded_draws(golden("aimclr/step_halp_aimclr"), "halp")
    return compile_step(make_config(variant), replayed_halp([draws]))


@functools.cache
def recorded_run(golden, name):
    """(reference, state after, metrics, gradients) of a recorded step."""
    variant, epoch = STEPS[name]
    reference, arrays, inputs = (golden(f"aimclr/{n}") for n in (name, "state", "inputs"))
    c = make_config(variant)
    if "skeletonclr" in variant:  # its three streams start from one encoder
        arrays = arrays | {
            key.replace(old, f"{old}{ending}", 1): value
            for key, value in arrays.items()
            for old in ("encoder_q", "encoder_k", "queue_ptr", "queue")
            for ending in ("_motion", "_bone")
            if re.match(rf"(momentum_before/)?{old}(\.|$)", key)
        }
    state = recorded_state(arrays, c, epoch)
    if "halp" in name:
        prototypes = jnp.asarray(reference["halp/prototypes"])[None]
        state = state.replace(extra=state.extra | {"prototypes": prototypes})
    kinds = ("im_q", "im_k", "im_q_extreme")[: 2 if "skeleton" in name else 3]
    views = make_views(c, *(inputs[kind] for kind in kinds))
    return reference, *compiled(golden, variant)(state, views)


@pytest.mark.parametrize("name", mark_long(STEPS, but="step_halp_aimclr"))
def test_losses(golden, name):
    reference, _, metrics, _ = recorded_run(golden, name)
    if "skeleton" in name:
        assert relative_error(metrics["loss_cl_joint"], reference["loss"]) < 1e-5
        for stream in ("motion", "bone"):
            assert relative_error(metrics[f"loss_cl_{stream}"], reference[f"{stream}/loss"]) < 1e-5
        return
    assert relative_error(metrics["loss"], reference["loss"]) < 1e-5
    assert relative_error(metrics["loss_cl"], reference["loss_contrast"]) < 1e-5
    d3m = (reference["loss_d3m_extreme"] + reference["loss_d3m_extreme_drop"]) / 2
    assert relative_error(metrics["loss_d3m"], d3m) < 1e-5
    assert relative_error(metrics["learning_rate"], reference["lr"]) < 1e-6
    if "pos_mask" in reference:
        assert np.isclose(metrics["positives"], reference["pos_mask"].sum(1).mean())
    if "halp" in name:
        assert relative_error(metrics["loss_halp"], reference["halp/loss_halp"]) < 1e-5
        assert np.isclose(metrics["kept"], reference["halp/keep"].mean())


@pytest.mark.parametrize("name", mark_long(STEPS, but="step_halp_aimclr"))
def test_gradients_and_the_state_after_the_optimiser(golden, name):
    reference, after, _, grads = recorded_run(golden, name)
    names = STREAMS if "skeleton" in name else ("joint",)
    assert compare(read_written(grads, "encoder_q", names), reference, "grad/", 1e-4)
    assert compare(read_state(after, names), reference, "after/", 1e-5)
    [trace] = [s.trace for s in after.opt_state if isinstance(s, optax.TraceState)]
    found = compare(read_written(trace, "encoder_q", names), reference, "momentum_after/", 1e-4)
    assert found or name != "step_aimclr"  # which alone records them
    queue = after.extra["queue"]
    assert int(queue.head[0]) == reference["queue_ptr_after"][0]
    assert relative_error(queue.keys[0, 24:32].T, reference["queue_new_columns"]) < 1e-5


@pytest.mark.parametrize("name", ["step_aimclr", "step_nnm", "step_nnm_topk2"])
def test_logits_mined_neighbours_and_losses_from_the_recorded_points(golden, name):
    reference, queue = golden(f"aimclr/{name}"), golden("aimclr/state")["queue"].T
    q, e, d, k = (jnp.asarray(reference[n]) for n in ("q", "q_extreme", "q_extreme_drop", "k"))
    logits = [contrast_logits(z, k, jnp.asarray(queue), 0.07) for z in (q, e, d)]
    assert relative_error(logits[0], reference["logits"]) < 1e-6
    for z, kind in ((logits[1], "extreme"), (logits[2], "extreme_drop")):
        value = distribution_loss(logits[0], z)
        assert relative_error(value, reference[f"loss_d3m_{kind}"]) < 1e-6
    positive = np.zeros(logits[0].shape, bool)
    positive[:, 0] = True
    if name != "step_aimclr":
        count = reference["mined_q"].shape[1]
        for z, kind in zip(logits, ("q", "extreme", "extreme_drop"), strict=True):
            near = np.asarray(find_neighbours(z[:, 1:], count))
            mined = np.sort(np.nonzero(near)[1].reshape(8, count))
            assert np.array_equal(mined, np.sort(reference[f"mined_{kind}"]))
            positive[:, 1:] |= near
        assert np.array_equal(positive, reference["pos_mask"] > 0)
    value = mean_over_positives(logits[0], jnp.asarray(positive))
    assert relative_error(value, reference["loss_contrast"]) < 1e-6
