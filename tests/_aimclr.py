"""The recorded AimCLR, SkeletonCLR and CrosSCLR steps: their configs, states and what we make of them."""

import functools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _released import clips, full_length, relative_error

from halp_jax import methods
from halp_jax.core.hallucinate import halp_loss
from halp_jax.methods import base, streams, torch_names, torch_stgcn
from halp_jax.methods.base import AXIS, Spec, TrainState
from halp_jax.skeletons.layout import NTU25

CONFIGS = Path(__file__).parents[1] / "configs"
ENDINGS = torch_names.ENDINGS
QUICKLY = {"xla_backend_optimization_level": 0}  # compiles in a quarter of the time
PLACES, STATISTICS = torch_stgcn.list_parameters(), torch_stgcn.list_statistics()


@functools.cache
def load(name):
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]


def config(name="aimclr", variant="ntu60_xsub", streams=("joint",)):
    """Hidden channels 4, last block 32, dim 16, queue 64, batch 8, no dropout."""
    c = load(name)(variant)
    c.streams = streams
    c.encoder.dim, c.moco.queue_size, c.train.batch_size = 16, 64, 8
    c.encoder.stgcn.update(width=4, last_width=32, dropout=0.0)
    c.halp.queue_entries, c.halp.num_positives, c.halp.num_prototypes = 64, 10, 8
    return c


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def read_params(arrays, which, names, shared):
    """Parameters of the encoders `which` (encoder_q ...) of these streams, stacked."""
    trees = []
    for name in names:
        prefix = f"{which}{ENDINGS[name]}."
        tree = torch_stgcn.read_tree(arrays, prefix, PLACES)
        if shared:
            joint = torch_stgcn.read_tree(arrays, f"{which}.", PLACES)["head"]
            tree |= {"own": tree["head"]["hidden"], "head": joint}
        trees.append(tree)
    return stack(trees)


def recorded_state(arrays, c, epoch, shared=False):
    """The state of the recorder before its step, at the first step of an epoch (counted from 1)."""
    names = tuple(c.streams)
    params, key_params = (read_params(arrays, f"encoder_{w}", names, shared) for w in "qk")
    stats, key_stats = (
        stack(
            [torch_stgcn.read_tree(arrays, f"encoder_{w}{ENDINGS[n]}.", STATISTICS) for n in names]
        )
        for w in "qk"
    )
    optimizer, _ = methods.find_method(c).make_optimizer(c, 1)
    momentum = jax.tree.map(jnp.zeros_like, params)
    if any(name.startswith("momentum_before/") for name in arrays):
        before = {k.removeprefix("momentum_before/"): v for k, v in arrays.items()}
        momentum = read_params(before, "encoder_q", names, shared)
    opt_state = torch_names.fill_optimizer(optimizer, params, epoch - 1, momentum)
    extra = {
        "batch_stats": stats, "key_params": key_params, "key_batch_stats": key_stats,
        "queue": torch_names.read_queue(arrays, [ENDINGS[n] for n in names], 200),
        "prototypes": jnp.zeros((len(names), c.halp.num_prototypes, 16)),
    }  # fmt: skip
    return TrainState(jnp.int32(epoch - 1), params, opt_state, extra)


def make_views(c, *arrays):
    batches = ({"frames": clips(a), "length": full_length(clips(a))} for a in arrays)
    return tuple(streams.split_streams(batch, c.streams, NTU25) for batch in batches)


def compile_step(c, halp=halp_loss):
    """-> run(state, views): (state after, metrics, gradients) of one step on one device."""
    module = methods.find_method(c)
    method = module.make(c, Spec(NTU25, 1), halp)
    optimizer, schedules = module.make_optimizer(c, 1)

    def keep(grads, state, params):  # the gradients, too, go through the optimiser's state
        updates, state = optimizer.update(grads, state[0], params)
        return updates, (state, grads)

    keeper = optax.GradientTransformation(optimizer.init, keep)
    update = base.make_update(method, keeper, schedules)

    def step(state, views):
        state = state.replace(opt_state=(state.opt_state, None))
        after, metrics = update(state, views, jax.random.key(0))
        opt_state, grads = after.opt_state
        return after.replace(opt_state=opt_state), metrics, grads

    mapped = jax.jit(jax.vmap(step, (None, 0), axis_name=AXIS, axis_size=1))
    compiled = []

    def run(state, views):
        views = jax.tree.map(lambda x: x[None], views)
        if not compiled:
            compiled.append(mapped.lower(state, views).compile(QUICKLY))
        return jax.tree.map(lambda x: np.asarray(x[0]), compiled[0](state, views))

    return run


def read_written(tree, which, names, shared=False, places=PLACES):
    """Stacked trees as torch's arrays, by their names."""
    arrays = {}
    for i, name in enumerate(names):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], tree)
        if shared and "own" in own and name != "joint":
            own = own | {"head": {"hidden": own["own"]}}
        arrays |= torch_stgcn.write_tree(own, f"{which}{ENDINGS[name]}.", places)
    return arrays


def read_state(state, names, shared=False):
    """Both encoders of a state with their statistics, as torch's arrays."""
    extra = state.extra
    return (
        read_written(state.params, "encoder_q", names, shared)
        | read_written(extra["key_params"], "encoder_k", names, shared)
        | read_written(extra["batch_stats"], "encoder_q", names, places=STATISTICS)
        | read_written(extra["key_batch_stats"], "encoder_k", names, places=STATISTICS)
    )


FLAT = ("tcn.2.bias", "residual.0.bias")  # before a batch norm: their gradients are 0


def compare(ours, reference, prefix, tolerance):
    """Every array of the reference under `prefix` -> how many; of gradients that are 0 the absolute difference."""
    count = 0
    for name, wanted in reference.items():
        if not name.startswith(prefix) or "num_batches" in name:
            continue
        found, count = ours[name.removeprefix(prefix)], count + 1
        if name.endswith(FLAT):
            assert np.abs(found - wanted).max() < 7e-6, name
        else:
            assert relative_error(found, wanted) < tolerance, name
    return count
