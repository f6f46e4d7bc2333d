"""The linear protocols of AimCLR and CrosSCLR against the recorded ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _aimclr import QUICKLY, STATISTICS, config, load, read_params, stack
from _released import clips, full_length, relative_error

from halp_jax import methods
from halp_jax.evaluation import linear, streams
from halp_jax.methods import torch_stgcn
from halp_jax.methods.base import Spec
from halp_jax.skeletons.layout import NTU25

THREE = ("joint", "motion", "bone")


def encode(arrays, c, *inputs, shared=False):
    """Features [streams, clips, features] of each array of clips by the frozen encoder of `arrays`."""
    params = read_params(arrays, "encoder_q", c.streams, shared)
    ends = {"joint": "", "motion": "_motion", "bone": "_bone"}
    stats = stack(
        [torch_stgcn.read_tree(arrays, f"encoder_q{ends[n]}.", STATISTICS) for n in c.streams]
    )
    method = methods.make_method(c, Spec(NTU25))
    frames = jnp.concatenate([clips(x) for x in inputs])

    def run(frames):
        return method.encode(
            params, {"batch_stats": stats}, {"frames": frames, "length": full_length(frames)}
        )

    return jnp.split(jax.jit(run).lower(frames).compile(QUICKLY)(frames), len(inputs), axis=1)


def step(probe, features, labels, optimizer, state):
    loss, grads = jax.value_and_grad(linear.probe_loss)(
        probe, features, jnp.asarray(labels, jnp.int32), jnp.ones(len(labels))
    )
    updates, state = optimizer.update(grads, state, probe)
    return loss, grads, optax.apply_updates(probe, updates), state


def test_two_steps_and_the_test_of_the_released_code(golden):
    g, inputs = golden("aimclr/linear"), golden("aimclr/inputs")
    c = config()
    features = encode(golden("aimclr/state"), c, g["x0"], inputs["im_k"], inputs["im_q"])
    features = [each[0] for each in features]
    optimizer = linear.make_optimizer(load("aimclr")("ntu60_xsub").linear, steps_per_epoch=1)
    probe = linear.Probe(jnp.asarray(g["fc_weight0"].T), jnp.asarray(g["fc_bias0"]))
    state = optimizer.init(probe)
    for i in range(2):
        assert relative_error(linear.apply_probe(probe, features[i]), g[f"step{i}/logits"]) < 1e-5
        loss, grads, probe, state = step(probe, features[i], g["labels"][i], optimizer, state)
        assert relative_error(loss, g[f"step{i}/loss"]) < 1e-5
        assert relative_error(grads.weight.T, g[f"step{i}/grad_weight"]) < 1e-5
        assert relative_error(grads.bias, g[f"step{i}/grad_bias"]) < 1e-5
        assert relative_error(probe.weight.T, g[f"step{i}/fc_weight"]) < 1e-5
        assert relative_error(probe.bias, g[f"step{i}/fc_bias"]) < 1e-5
        # The second step was taken in epoch 81, from which on the rate is a tenth.
        state = jax.tree.map(lambda x: jnp.full_like(x, 80) if x.dtype == jnp.int32 else x, state)
    logits = np.asarray(linear.apply_probe(probe, features[2]))
    assert relative_error(logits, g["test/logits"]) < 1e-5
    figures = linear.score(logits[None], g["labels"][2], [1])
    assert np.isclose(100 * figures["top1"], g["test/top1_percent"])
    assert np.isclose(figures["top5"], g["test/top5"][0])


def test_the_ensemble_is_the_released_one(golden):
    g = {k.split("/")[1]: v for k, v in golden("aimclr/linear").items() if k.startswith("ensemble")}
    weights = load("aimclr")("ntu60_xsub").linear.weights
    logits = sum(weights[stream] * g[stream] for stream in THREE)
    figures = linear.score(logits[None], g["labels"], [1])
    assert np.isclose(figures["top1"], g["top1"]) and np.isclose(figures["top5"], g["top5"])


def test_layers_trained_together_are_crossclrs(golden):
    """One layer on the joined features, divided by three, is three layers on the mean of logits."""
    g, x = golden("aimclr/linear_cross"), golden("aimclr/inputs")["im_q"]
    c = config("crossclr", "ntu60_xsub", THREE)
    [features] = encode(golden("aimclr/state_cross"), c, x, shared=True)
    joined = streams.select(np.concatenate([*features], axis=-1), "together", THREE)
    joined = jnp.asarray(joined)
    ends = ("", "_motion", "_bone")
    weight = np.concatenate([g[f"fc{end}_weight0"].T for end in ends])
    probe = linear.Probe(jnp.asarray(weight), jnp.zeros(6))
    assert relative_error(linear.apply_probe(probe, joined), g["logits"]) < 1e-5
    optimizer = linear.make_optimizer(load("crossclr")("ntu60_xsub").linear, steps_per_epoch=1)
    loss, grads, after, _ = step(probe, joined, g["labels"], optimizer, optimizer.init(probe))
    assert relative_error(loss, g["loss"]) < 1e-5
    for found, kind in ((grads, "grad_weight"), (after, "weight1")):
        parts = np.split(np.asarray(found.weight), 3)
        for part, end in zip(parts, ends, strict=True):
            assert relative_error(part.T, g[f"fc{end}_{kind}"]) < 1e-5
