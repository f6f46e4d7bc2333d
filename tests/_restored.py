"""Recorded steps of P&C: torch's arrays as our trees and back, and one step of ours."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from _released import relative_error

from halp_jax import methods
from halp_jax.methods import base, torch_names
from halp_jax.methods.base import AXIS, Spec, TrainState
from halp_jax.skeletons.layout import NTU25

QUICKLY = {"xla_backend_optimization_level": 0}
GATES = torch_names.GRU


def turn_matrix(array):
    return array.T if array.ndim == 2 else array


def make_place(name, path, row=None):
    """Where one of torch's arrays is in our tree: row `row` of a leaf, if it has one."""
    return torch_names.Place(name, path, torch_names.Form(turn_matrix, turn_matrix), row)


def list_bigru(prefix, num_layers):
    return [
        make_place(f"{prefix}gru.{theirs}_l{i}{end}", (f"layer{i}", ours), row)
        for i in range(num_layers)
        for row, end in enumerate(("", "_reverse"))
        for theirs, ours in GATES.items()
    ]


def read_tree(arrays, prefix, places):
    """Our tree of torch's arrays, without the axis of streams."""
    tree = torch_names.read_tree(arrays, prefix, places)
    return jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), tree)


def write_tree(tree, places):
    """Our tree, of one stream, as torch's arrays."""
    return torch_names.write_tree(jax.tree.map(lambda leaf: leaf[0], tree), "", places)


def make_layout(joints, bodies=1):
    """So many joints that mean nothing."""
    names = tuple(f"joint {i}" for i in range(joints))
    parents = (0, *range(joints - 1))
    return dataclasses.replace(NTU25, name="made", joints=names, parents=parents, bodies=bodies)


def run_step(config, layout, params, extra, views):
    """One step on one device from ready views -> (state, metrics, gradients), of one stream each."""
    module = methods.find_method(config)
    method = module.make(config, Spec(layout, 1))
    optimizer, schedules = module.make_optimizer(config, 1)
    gradient = jax.grad(method.loss, has_aux=True)
    params, extra, views = jax.tree.map(lambda x: jnp.asarray(x)[None], (params, extra, views))
    state = TrainState(jnp.int32(0), params, optimizer.init(params), extra)
    update = base.make_update(method, optimizer, schedules)

    def step(state, views):
        key = jax.random.key(0)
        grads, _ = gradient(state.params, state.extra, views, key, state.step)
        return *update(state, views, key), grads

    mapped = jax.jit(jax.vmap(step, (None, 0), axis_name=AXIS, axis_size=1))
    views = jax.tree.map(lambda x: x[None], views)
    found = mapped.lower(state, views).compile(QUICKLY)(state, views)
    return jax.tree.map(lambda x: np.asarray(x[0]), found)


def compare(ours, reference, prefix, tolerance, loosely=()):
    """Every array of `ours` is the one under `prefix`; those of `loosely` need not be."""
    for name, array in ours.items():
        if not name.endswith(tuple(loosely)):
            assert relative_error(array, reference[prefix + name]) < tolerance, name


def is_step_of_adam(grad, before, after, rate, nudge):
    """Whether a gradient that differs by no more than `nudge` explains the first step of Adam."""
    ends = [-rate * g / (np.abs(g) + 1e-8) for g in (grad - nudge, grad + nudge)]
    room = 1e-6 * np.abs(after).max()
    step = after - before
    return np.all((step > np.minimum(*ends) - room) & (step < np.maximum(*ends) + room))
