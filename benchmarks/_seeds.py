"""All seeds of one setting in one program: `vmap` around the step of any method, chunk by chunk."""

import jax
import numpy as np

from halp_jax import methods
from halp_jax.datasets.order import shuffle_epoch
from halp_jax.datasets.pipeline import eval_batches
from halp_jax.methods import base, halp

AXIS = "seeds"
make_term = halp.make_term


def renew_together(*args, axes=(), **options):
    """Prototypes of all seeds at once: conditions that differ would run k-means in every step."""
    return make_term(*args, axes=(*axes, AXIS), **options)


# For the life of the script, since its methods are made in several threads.
halp.make_term = renew_together


def make_runner(config, spec, method=None, labels=None):
    """-> (create, run), jitted, of the config's method or another, of clips with `labels` where it asks.

    create(seeds) is the state of step 0 with step None, since it is the same in all seeds: that number goes in
    beside it. run(state, number, seeds, order [seeds, steps, batch], frames, lengths) takes steps from `number`
    on and returns (state, metrics of the last one).
    """
    module = methods.find_method(config)
    method = method or module.make(config, spec)
    optimizer, _ = module.make_optimizer(config, spec.steps_per_epoch)

    def create(seed):
        return base.create_state(method, optimizer, seed).replace(step=None)

    def run(state, number, seed, order, frames, lengths):
        step = base.make_step(method, optimizer, seed)
        alone = jax.vmap(step, in_axes=(None, 0), axis_name=base.AXIS)  # the one device

        def body(carry, chosen):
            parts, number = carry
            batch = {"frames": frames[chosen][None], "length": lengths[chosen][None]}
            batch |= {} if labels is None else {"label": labels[chosen][None]}
            state, metrics = alone(base.TrainState(number, *parts), batch)
            state, metrics = jax.tree.map(lambda x: x[0], (state, metrics))
            return ((state.params, state.opt_state, state.extra), number + 1), metrics

        parts = (state.params, state.opt_state, state.extra)
        (parts, _), metrics = jax.lax.scan(body, (parts, number), order)
        return base.TrainState(None, *parts), jax.tree.map(lambda x: x[-1], metrics)

    run = jax.vmap(run, (0, None, 0, 0, None, None), axis_name=AXIS)
    return jax.jit(jax.vmap(create)), jax.jit(run)


def order_clips(train: np.ndarray, seed: int, size: int, steps: int) -> np.ndarray:
    """Clip numbers [steps, batch] in the order of a run of halp_jax.train."""
    whole = len(train) // size
    epochs = [shuffle_epoch(len(train), seed, e)[: whole * size] for e in range(-(-steps // whole))]
    return train[np.concatenate(epochs)[: steps * size]].reshape(steps, size).astype(np.int32)


def pad_clips(dataset, max_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """(frames [clips, max_frames, bodies, joints, 3], lengths), zeros after the end of a clip."""
    numbers = np.arange(len(dataset), dtype=np.int32)
    [batch] = eval_batches(dataset, numbers, batch_size=len(numbers), max_frames=max_frames)
    return batch["frames"], batch["length"]
