"""CMD and HaLP+CMD against the authors' three-stream model: one step, its terms and its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
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
from _steps import change, create_state, encode, run_update, split_views

from halp_jax.core import distill
from halp_jax.core.hallucinate import halp_loss
from halp_jax.core.sphere import normalize
from halp_jax.encoders.bigru import make_encoder
from halp_jax.evaluation.streams import select
from halp_jax.methods.base import TrainState
from halp_jax.methods.torch_names import read_queue

STREAMS = ("joint", "motion", "bone")
ENDINGS = ("", "_motion", "_bone")  # of the released names, in the order of STREAMS
# The recorded six terms as (teacher, student).
PAIRS = ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))
MU = {"mm_cmd": 0.0, "mm_halp_cmd": 1.0}


def mm_config(mu: float):
    c = config(mu=mu, streams=STREAMS)
    c.encoder.width, c.moco.queue_size = 16, 128
    c.halp.queue_entries = 128
    c.cmd.nu, c.cmd.topk = 1.0, 32
    # A rate of one makes the difference of the parameters the gradient, to their rounding.
    c.optim.learning_rate, c.optim.momentum, c.optim.weight_decay = 1.0, 0.0, 0.0
    return c


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def from_torch_streams(arrays, prefix):
    """(params, batch_stats) of the three encoders, stacked."""
    pairs = [from_torch(arrays, f"{prefix}{ending}.") for ending in ENDINGS]
    return stack([params for params, _ in pairs]), stack([stats for _, stats in pairs])


def recorded_state(golden, c) -> TrainState:
    arrays = golden("mm_state")
    params, stats = from_torch_streams(arrays, "encoder_q")
    key_params, key_stats = from_torch_streams(arrays, "encoder_k")
    state = jax.jit(lambda: create_state(c))()
    return change(
        state.replace(params=params),
        batch_stats=stats,
        key_params=key_params,
        key_batch_stats=key_stats,
        queue=jax.tree.map(jnp.asarray, read_queue(arrays, ENDINGS, 0)),
        prototypes=jnp.stack([jnp.asarray(arrays[f"prototypes_{e}"]) for e in "jmb"]),
    )


@functools.cache
def replay(golden, name):
    """The recorded step: (reference, state before, state after, metrics)."""
    reference, c = golden(name), mm_config(MU[name])
    state = recorded_state(golden, c)
    halp = halp_loss
    if c.halp.mu:
        draws = [recorded_draws(reference, f"gen_{e}") for e in "jmb"]
        halp = replayed_halp(draws, state.extra["prototypes"])
    inputs = golden("inputs")
    views = split_views(c, clips(inputs["im_q"]), clips(inputs["im_k"]))
    after, metrics = run_update(c, state, views, halp)
    return reference, state, after, metrics


@pytest.mark.parametrize("name", mark_long(MU, but="mm_halp_cmd"))
def test_loss(golden, name):
    reference, _, _, metrics = replay(golden, name)
    assert relative_error(metrics["loss"], reference["loss_total"]) < 1e-5


def test_terms(golden):
    reference, _, _, metrics = replay(golden, "mm_halp_cmd")
    contrast = [metrics[f"loss_cl_{stream}"] for stream in STREAMS]
    assert relative_error(contrast, reference["loss_infonce"]) < 1e-5
    assert relative_error(metrics["loss_cmd"], reference["loss_cmd"]) < 1e-5
    terms = [metrics[f"kl_{STREAMS[a]}_{STREAMS[b]}"] for a, b in PAIRS]
    assert relative_error(terms, reference["kl_six"]) < 1e-5
    positives = sum(metrics[f"loss_halp_{stream}"] for stream in STREAMS)
    assert relative_error(positives, reference["loss_pn_total"]) < 1e-5
    for stream, e in zip(STREAMS, "jmb", strict=True):
        kept = metrics[f"kept_{stream}"] * 80
        assert relative_error(kept, reference[f"num_good_positives_{e}"]) < 1e-6


@pytest.mark.parametrize("name", mark_long(MU, but="mm_halp_cmd"))
def test_gradients_of_every_parameter(golden, name):
    """SGD from zero momentum without decay moves by -lr * gradient: read it off the step."""
    reference, before, after, _ = replay(golden, name)
    gradients = {k.removeprefix("grad/"): v for k, v in reference.items() if k.startswith("grad/")}
    compared = 0
    for i, ending in enumerate(ENDINGS):
        if f"encoder_q{ending}.fc.0.weight" not in gradients:
            continue  # mm_cmd holds joint and bone
        theirs, _ = from_torch(gradients, f"encoder_q{ending}.")
        ours = jax.tree.map(lambda a, b, i=i: (a - b)[i], before.params, after.params)
        errors = jax.tree.map(relative_error, ours, theirs)
        assert max(jax.tree.leaves(errors)) < 1e-4, errors
        compared += 1
    assert compared == (3 if name == "mm_halp_cmd" else 2)


def test_state_after_the_step(golden):
    reference, before, after, _ = replay(golden, "mm_halp_cmd")
    theirs = {
        k.removeprefix("after_forward/"): v
        for k, v in reference.items()
        if k.startswith("after_forward/")
    }
    for i, ending in enumerate(ENDINGS):
        head = int(before.extra["queue"].head[i])
        new = after.extra["queue"].keys[i, head : head + 8].T
        assert relative_error(new, theirs[f"queue{ending}_new_columns"]) < 1e-5
        assert int(after.extra["queue"].head[i]) == int(theirs[f"queue_ptr{ending}"][0])
        np.testing.assert_array_equal(
            after.extra["queue"].keys[i, :head], before.extra["queue"].keys[i, :head]
        )
        for ours, encoder in (
            (after.extra["batch_stats"], "q"),
            (after.extra["key_batch_stats"], "k"),
        ):
            for name, torch_name in (("mean", "running_mean"), ("var", "running_var")):
                wanted = theirs[f"encoder_{encoder}{ending}.input_norm.{torch_name}"]
                assert relative_error(ours["input_norm"][name][i], wanted) < 1e-5
    key_params, _ = from_torch(theirs, "encoder_k_bone.")
    ours = jax.tree.map(lambda x: x[2], after.extra["key_params"])
    assert max(jax.tree.leaves(jax.tree.map(relative_error, ours, key_params))) < 1e-5


def test_queries_keys_logits_and_neighbours(golden):
    reference, before, after, _ = replay(golden, "mm_halp_cmd")
    c, inputs = mm_config(1.0), golden("inputs")
    encoder = make_encoder(c)

    @jax.jit
    @jax.vmap
    def embed(params, stats, x):
        variables = {"params": params, "batch_stats": stats}
        return normalize(
            encoder.apply(variables, x["frames"], train=True, mutable=["batch_stats"])[0][0]
        )

    x_q, x_k = split_views(c, clips(inputs["im_q"]), clips(inputs["im_k"]))
    q = embed(before.params, before.extra["batch_stats"], x_q)
    k = embed(after.extra["key_params"], before.extra["key_batch_stats"], x_k)
    for i, (ending, stream) in enumerate(zip(ENDINGS, ("", "motion_", "bone_"), strict=True)):
        assert relative_error(q[i], reference[f"q{ending}"]) < 1e-5
        assert relative_error(k[i], reference[f"k{ending}"]) < 1e-5
        positive = jnp.sum(q[i] * k[i], axis=1, keepdims=True)
        logits = jnp.concatenate([positive, q[i] @ before.extra["queue"].keys[i].T], axis=1) / 0.07
        assert relative_error(logits, reference[f"logits{ending}"]) < 1e-5
        teacher = k[i] @ before.extra["queue"].keys[i].T
        found = np.sort(
            np.asarray(distill.find_neighbours(teacher, 32)).nonzero()[1].reshape(8, 32)
        )
        np.testing.assert_array_equal(found, np.sort(reference[f"{stream}topk_idx"]))


def test_features_of_each_stream_and_their_mean(golden):
    reference, inputs, c = golden("mm_features"), golden("inputs"), mm_config(0.0)
    state = recorded_state(golden, c)
    frames = clips(inputs["im_q"])
    features = jax.jit(lambda f: encode(c, state.params, state.extra["batch_stats"], f))(frames)
    joined = np.concatenate(list(np.asarray(features)), axis=-1)
    for stream in STREAMS:
        ours = select(joined, stream, STREAMS)
        assert relative_error(ours, reference[f"knn_{stream}"]) < 1e-5
    assert relative_error(select(joined, "mean", STREAMS), reference["knn_all"]) < 1e-5
