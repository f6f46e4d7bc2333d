"""One training step against the authors' code: losses, gradients, and the state it leaves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _released import (
    clips,
    config,
    from_torch,
    mark_long,
    recorded_draws,
    relative_error,
    replayed_halp,
)
from _steps import change, create_state, run_update, split_views

from halp_jax.core import hallucinate
from halp_jax.core.queue import MemoryQueue
from halp_jax.encoders.bigru import make_encoder
from halp_jax.methods import moco
from halp_jax.methods.base import TrainState

RUNS = {"step_baseline": "joint", "step_halp": "joint", "step_halp_motion": "motion"}
RUNS["step_halp_bone"] = "bone"


def stacked(tree):
    return jax.tree.map(lambda x: jnp.asarray(x)[None], tree)


def recorded_state(golden, c) -> TrainState:
    arrays = golden("single_state")
    params, stats = from_torch(arrays, "encoder_q.")
    key_params, key_stats = from_torch(arrays, "encoder_k.")
    state = jax.jit(lambda: create_state(c))()
    # The optimiser's momentum was recorded for the biases and the head; the rest started at zero or
    # is not compared.
    before = {k.removeprefix("momentum_before/"): v for k, v in golden("step_baseline").items()}
    momentum = {k: np.zeros_like(v) for k, v in arrays.items() if k.startswith("encoder_q.")}
    momentum |= {k: v for k, v in before.items() if k in momentum}
    momentum = stacked(from_torch(momentum, "encoder_q.")[0])
    opt_state = tuple(
        s._replace(trace=momentum) if isinstance(s, optax.TraceState) else s
        for s in state.opt_state
    )
    state = state.replace(params=stacked(params), opt_state=opt_state)
    return change(
        state,
        batch_stats=stacked(stats),
        key_params=stacked(key_params),
        key_batch_stats=stacked(key_stats),
        queue=MemoryQueue(
            keys=jnp.asarray(arrays["queue"].T)[None],
            head=jnp.asarray(arrays["queue_ptr"], jnp.int32),
            pushed=jnp.array([96], jnp.int32),
        ),
        prototypes=jnp.asarray(arrays["prototypes"])[None],
    )


@functools.cache
def recorded_run(golden, name):
    """The recorded step replayed: (reference, state before, state after, metrics)."""
    reference = golden(name)
    c = config(mu=0.0 if name == "step_baseline" else 2.0, streams=(RUNS[name],))
    state = recorded_state(golden, c)
    return reference, state, *replay(golden, c, name, state)


def replay(golden, c, name, state):
    inputs = golden("inputs")
    views = split_views(c, clips(inputs["im_q"]), clips(inputs["im_k"]))
    halp = (
        hallucinate.halp_loss
        if name == "step_baseline"
        else replayed_halp([recorded_draws(golden(name), "gen")])
    )
    return run_update(c, state, views, halp)


@pytest.mark.parametrize("name", mark_long(RUNS, but="step_halp"))
def test_losses(golden, name):
    reference, _, _, metrics = recorded_run(golden, name)
    assert relative_error(metrics["loss_cl"], reference["loss_infonce"]) < 1e-5
    assert relative_error(metrics["loss"], reference["loss_total"]) < 1e-5
    if name != "step_baseline":
        assert relative_error(metrics["loss_halp"], reference["loss_pn"]) < 1e-5
        assert relative_error(metrics["kept"] * 80, reference["num_good_positives"]) < 1e-6


@pytest.mark.parametrize("name", mark_long(["step_baseline", "step_halp"], but="step_halp"))
def test_gradients_of_every_parameter(golden, name):
    """SGD from zero momentum without decay moves by -lr * gradient: read the gradient off the step."""
    reference = golden(name)
    c = config(mu=0.0 if name == "step_baseline" else 2.0)
    # A rate of one makes the difference of the parameters the gradient, to their rounding.
    c.optim.learning_rate, c.optim.momentum, c.optim.weight_decay = 1.0, 0.0, 0.0
    state = recorded_state(golden, c)
    state = state.replace(opt_state=moco.make_optimizer(c, 1000)[0].init(state.params))
    after, _ = replay(golden, c, name, state)
    ours = jax.tree.map(lambda a, b: (a - b)[0], state.params, after.params)
    gradients = {k.removeprefix("grad/"): v for k, v in reference.items() if k.startswith("grad/")}
    theirs, _ = from_torch(gradients, "encoder_q.")
    assert len(jax.tree.leaves(ours)) == len(jax.tree.leaves(theirs)) == 18
    errors = jax.tree.map(relative_error, ours, theirs)
    assert max(jax.tree.leaves(errors)) < 1e-4, errors


@pytest.mark.parametrize("name", mark_long(["step_baseline", "step_halp"], but="step_halp"))
def test_state_after_the_step(golden, name):
    reference, before, after, _ = recorded_run(golden, name)
    theirs = {k.removeprefix("after_step/"): v for k, v in reference.items() if "after_step/" in k}
    names = {
        "layer0": "encoder.gru.bias_ih_l0", "layer1": "encoder.gru.bias_ih_l1",
        "layer2": "encoder.gru.bias_ih_l2",
    }  # fmt: skip
    for layer, torch_name in names.items():
        for i, end in enumerate(("", "_reverse")):
            ours = after.params[layer]["b_ih"][0, i]
            assert relative_error(ours, theirs[f"encoder_q.{torch_name}{end}"]) < 1e-5
    out = after.params["head"]["out"]
    assert relative_error(out["kernel"][0].T, theirs["encoder_q.fc.2.weight"]) < 1e-5
    scale = after.params["input_norm"]["scale"][0]
    assert relative_error(scale, theirs["encoder_q.input_norm.weight"]) < 1e-5
    assert int(after.step) == 1


def test_key_encoder_queue_and_statistics_after_the_step(golden):
    reference, before, after, _ = recorded_run(golden, "step_halp")
    theirs = {
        k.removeprefix("after_forward/"): v
        for k, v in reference.items()
        if k.startswith("after_forward/")
    }
    key_params, key_stats = from_torch(theirs, "encoder_k.")
    for ours, wanted in (
        (after.extra["key_params"], key_params),
        (after.extra["key_batch_stats"], key_stats),
    ):
        errors = jax.tree.map(lambda a, b: relative_error(a[0], b), ours, wanted)
        assert max(jax.tree.leaves(errors)) < 1e-5, errors
    stats = after.extra["batch_stats"]["input_norm"]
    for ours, torch_name in (("mean", "running_mean"), ("var", "running_var")):
        wanted = theirs[f"encoder_q.input_norm.{torch_name}"]
        assert relative_error(stats[ours][0], wanted) < 1e-5
    assert int(after.extra["queue"].head[0]) == int(theirs["queue_ptr"][0]) == 104
    assert (
        relative_error(after.extra["queue"].keys[0, 96:104].T, theirs["queue_new_columns"]) < 1e-5
    )
    np.testing.assert_array_equal(
        after.extra["queue"].keys[0, :96], before.extra["queue"].keys[0, :96]
    )
    np.testing.assert_array_equal(
        after.extra["queue"].keys[0, 104:], before.extra["queue"].keys[0, 104:]
    )


def test_query_key_and_logits(golden):
    """q, k and the logits, from the same parameters as the recorded forward pass."""
    reference, before, after, _ = recorded_run(golden, "step_halp")
    c = config()
    encoder = make_encoder(c)
    inputs = golden("inputs")

    def embed(params, stats, clip):
        x = clips(clip)
        params, stats = jax.tree.map(lambda x: x[0], (params, stats))
        variables = {"params": params, "batch_stats": stats}
        z = encoder.apply(variables, x, train=True, mutable=["batch_stats"])[0][0]
        return z / jnp.linalg.norm(z, axis=1, keepdims=True)

    embed = jax.jit(embed)
    q = embed(before.params, before.extra["batch_stats"], inputs["im_q"])
    k = embed(after.extra["key_params"], before.extra["key_batch_stats"], inputs["im_k"])
    assert relative_error(q, reference["q"]) < 1e-5
    assert relative_error(k, reference["k"]) < 1e-5
    queue = before.extra["queue"].keys[0]
    logits = jnp.concatenate([jnp.sum(q * k, 1, keepdims=True), q @ queue.T], axis=1) / 0.07
    assert relative_error(logits, reference["logits"]) < 1e-5
