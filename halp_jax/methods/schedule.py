"""Learning rate and HaLP weight as pure functions of the step."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]


def step_decay(
    base: float,
    milestones: Sequence[int],
    factor: float,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
) -> Schedule:
    """`base`, times `factor` from each milestone (epochs) on, after an optional linear warm-up."""
    boundaries = jnp.array([m * steps_per_epoch for m in milestones], jnp.int32)

    def schedule(step):
        passed = jnp.sum(step >= boundaries)
        warmup = jnp.minimum(1.0, (step + 1) / max(warmup_epochs * steps_per_epoch, 1))
        return base * factor**passed * (warmup if warmup_epochs else 1.0)

    return schedule


def ramp(weight: float, start_epoch: int, ramp_epochs: int, steps_per_epoch: int) -> Schedule:
    """0 before `start_epoch`, then linearly up to `weight` over `ramp_epochs` (at once if 0)."""
    start, length = start_epoch * steps_per_epoch, ramp_epochs * steps_per_epoch

    def schedule(step):
        return weight * jnp.clip((step - start + 1) / max(length, 1), 0.0, 1.0)

    return schedule
