"""Optimisers as torch.optim has them, and what falls or rises with the step: learning rate, weight of HaLP."""

from collections.abc import Callable

import jax.numpy as jnp
import ml_collections
import optax
from jaxtyping import Array, Float, Int

from halp_jax.methods import check

Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]
Optimizer = tuple[optax.GradientTransformation, dict[str, Schedule]]  # and the schedules to report


def ramp(weight: float, start_epoch: int, ramp_epochs: int, steps_per_epoch: int) -> Schedule:
    """0 before `start_epoch`, then linearly up to `weight` over `ramp_epochs` (at once if 0)."""
    start, length = start_epoch * steps_per_epoch, ramp_epochs * steps_per_epoch

    def schedule(step):
        return weight * jnp.clip((step - start + 1) / max(length, 1), 0.0, 1.0)

    return schedule


def make_rate(config: ml_collections.ConfigDict, steps_per_epoch: int, every: int = 0) -> Schedule:
    """optim.learning_rate, times optim.factor from each milestone on, or `every` so many steps, after a
    linear warm-up."""
    o = config.optim
    boundaries = jnp.array([m * steps_per_epoch for m in o.milestones], jnp.int32)
    warmup = o.warmup_epochs * steps_per_epoch

    def schedule(step):
        passed = step // every if every else jnp.sum(step >= boundaries)
        rising = jnp.minimum(1.0, (step + 1) / warmup) if warmup else 1.0
        return o.learning_rate * o.factor**passed * rising

    return schedule


def make_sgd(
    config: ml_collections.ConfigDict, steps_per_epoch: int, *, idle_epochs: int = 0
) -> Optimizer:
    """SGD with momentum and weight decay on all parameters, in torch.optim.SGD's order.

    Args:
        idle_epochs: at the start, in which neither weights nor momentum change.
    """
    rate, idle = make_rate(config, steps_per_epoch), idle_epochs * steps_per_epoch
    optimizer = optax.chain(
        optax.add_decayed_weights(config.optim.weight_decay),
        *([optax.scale_by_schedule(lambda step: 1.0 * (step >= idle))] if idle else []),
        optax.trace(decay=config.optim.momentum),
        optax.scale_by_learning_rate(rate),
    )
    return optimizer, {"learning_rate": rate}


def adam_config(clip: float = 0.0, decay_steps: int = 0) -> ml_collections.ConfigDict:
    """The section `adam` of a config."""
    adam = ml_collections.ConfigDict()  # its rate and its decay of weights are optim's
    adam.clip = clip  # longer gradients are shortened to this; 0: none
    # The rate falls by optim.factor every so many steps; 0: at optim.milestones.
    adam.decay_steps = decay_steps
    return ml_collections.ConfigDict({"adam": adam})


def check_adam(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for settings of `adam` that cannot work."""
    check.at_least(config, 0, "adam.clip", "adam.decay_steps")


def make_adam(
    config: ml_collections.ConfigDict,
    steps_per_epoch: int,
    clip_to: Callable[[float], optax.GradientTransformation] = optax.clip_by_global_norm,
) -> Optimizer:
    """Adam (Kingma & Ba 2015) with gradients clipped; with a weight decay AdamW (Loshchilov & Hutter 2019)."""
    rate = make_rate(config, steps_per_epoch, config.adam.decay_steps)
    clip = clip_to(config.adam.clip) if config.adam.clip else optax.identity()
    optimizer = optax.adamw(rate, weight_decay=config.optim.weight_decay)
    return optax.chain(clip, optimizer), {"learning_rate": rate}


def clip_modules(limit: float) -> optax.GradientTransformation:
    """Shortens the gradient of the encoder and that of each of params["heads"] to `limit`, one by one."""
    clip = optax.clip_by_global_norm(limit)

    def update(grads, state, params=None):
        encoder = {name: leaf for name, leaf in grads.items() if name != "heads"}
        heads = {name: clip.update(head, state)[0] for name, head in grads["heads"].items()}
        return clip.update(encoder, state)[0] | {"heads": heads}, state

    return optax.GradientTransformation(clip.init, update)
