"""What a method of learning is, and the one step that trains all of them.

    method = moco.make(config, spec)                   # or aimclr, supervised: any module of METHODS
    state = create_state(method, optimizer, seed)
    step = make_step(method, optimizer, seed)          # (state, batch) -> (state, metrics)

The step is written for one device's share of the batch, against the mapped axis "data". The state is
the same on every device, so what a method keeps of a batch in `extra` (statistics, keys) is to be
that of the global batch: `pmean` or `all_gather` over AXIS. Every random number is a function of
(seed, step, place in the global batch), so neither a restart nor the number of devices changes a run.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, UInt32

from halp_jax.methods.optim import Schedule

AXIS = "data"  # the mapped axis over which the batch is spread

# Of clips: {"frames": [batch, time, bodies, joints, xyz], "length": [batch], "label": [batch]}; of
# graphs what datasets/graph_batches.py says. A view is a batch again, perhaps with other frames.
Batch = dict[str, Array]


class Spec(NamedTuple):
    """What a data set tells a method."""

    layout: Any  # Layout of clips, GraphLayout of graphs
    steps_per_epoch: int = 1
    num_classes: int = 0
    mean_length: float = 0.0  # frames of a clip, nodes of a graph


class Method(NamedTuple):
    """One way to learn, as pure functions."""

    # (key) -> (params, extra). `extra` is a dict of whatever else the method keeps from step to step:
    # batch statistics (as extra["batch_stats"]), a key encoder, a queue.
    init: Callable[[Key[Array, ""]], tuple[Any, dict[str, Any]]]
    # (two keys, batch) -> views of the clips, any pytree.
    views: Callable[[Key[Array, "2"], Batch], Any]
    # (params, extra, views, key, step) -> (loss, (new extra, metrics)); the gradient is for params.
    loss: Callable[..., tuple[Array, tuple[dict[str, Any], dict[str, Array]]]]
    # (params, extra, batch) -> features [streams, batch, features] of the frozen encoder. Of extra
    # it is given "batch_stats" alone.
    encode: Callable[[Any, dict[str, Any], Batch], Array]
    # The same for points [streams, batch, dim] on the sphere; None of a method that has no sphere.
    embed: Callable[[Any, dict[str, Any], Batch], Array] | None = None


@flax.struct.dataclass
class TrainState:
    """Everything a run is."""

    step: Any  # int32 scalar
    params: Any
    opt_state: Any
    extra: Any


def create_state(method: Method, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    # Jitted, for eagerly each of the encoder's many small operations would be compiled by itself.
    params, extra = jax.jit(method.init)(jax.random.key(seed))
    extra = jax.tree.map(jnp.array, extra)  # donated states must not share leaves
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), extra)


def make_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    seed: int | UInt32[Array, ""],
    schedules: Mapping[str, Schedule] | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """The training step; `schedules` are reported among its metrics."""
    update = make_update(method, optimizer, schedules)

    def train_step(state: TrainState, batch: Batch):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step), 3)
        return update(state, method.views(keys[:2], batch), keys[2])

    return train_step


def make_update(
    method: Method,
    optimizer: optax.GradientTransformation,
    schedules: Mapping[str, Schedule] | None = None,
):
    """The step from the views on: (state, views, key) -> (state, metrics)."""
    gradient = jax.value_and_grad(method.loss, has_aux=True)

    def update(state: TrainState, views: Any, key: Key[Array, ""]):
        (loss, (extra, metrics)), grads = gradient(
            state.params, state.extra, views, key, state.step
        )
        grads = jax.lax.pmean(grads, AXIS)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), **metrics}
        metrics |= {name: schedule(state.step) for name, schedule in (schedules or {}).items()}
        params = optax.apply_updates(state.params, updates)
        state = TrainState(state.step + 1, params, opt_state, extra)
        return state, jax.lax.pmean(metrics, AXIS)

    return update


def sample_keys(key: Key[Array, ""], batch: int) -> Key[Array, " batch"]:
    """A key for each local sample, by its place in the global batch."""
    place = jax.lax.axis_index(AXIS) * batch + jnp.arange(batch)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(place)
