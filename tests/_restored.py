"""Recorded steps of P&C: torch's arrays as our trees and back, and one step of ours."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _released import relative_error

from halp_jax import methods
from halp_jax.methods import base
from halp_jax.methods.base import AXIS, Spec, TrainState
from halp_jax.skeletons.layout import NTU25

QUICKLY = {"xla_backend_optimization_level": 0}
GATES = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}


class Place(NamedTuple):
    """Where one of torch's arrays is in our tree: row `row` of a leaf, if it has one."""

    name: str
    path: tuple[str, ...]
    row: int | None = None


def list_bigru(prefix, num_layers):
    return [
        Place(f"{prefix}gru.{theirs}_l{i}{end}", (f"layer{i}", ours), row)
        for i in range(num_layers)
        for row, end in enumerate(("", "_reverse"))
        for theirs, ours in GATES.items()
    ]


def read_tree(arrays, prefix, places):
    """Our tree of torch's arrays, without the axis of streams."""
    tree, rows = {}, {}
    for place in places:
        array = np.asarray(arrays[prefix + place.name], np.float32)
        array = array.T if array.ndim == 2 else array
        holder = tree
        for name in place.path[:-1]:
            holder = holder.setdefault(name, {})
        if place.row is not None:
            array = np.stack([*rows.get(place.path, ()), array])
            rows[place.path] = array
        holder[place.path[-1]] = array
    return jax.tree.map(jnp.asarray, tree)


def write_tree(tree, places):
    """Our tree, of one stream, as torch's arrays."""
    arrays = {}
    for place in places:
        leaf = tree
        for name in place.path:
            leaf = leaf[name]
        leaf = np.asarray(leaf)[0]
        leaf = leaf if place.row is None else leaf[place.row]
        arrays[place.name] = leaf.T if leaf.ndim == 2 else leaf
    return arrays


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
