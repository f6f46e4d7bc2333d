"""Adam with gradients clipped, for the methods whose authors train by it.

Kingma & Ba 2015, as torch.optim.Adam has it; with a weight decay AdamW (Loshchilov & Hutter 2019). The rate is
that of `optim`, which falls at its milestones, or every so many steps.
"""

import ml_collections
import optax

from halp_jax.methods import check
from halp_jax.methods.schedule import Schedule, step_decay


def default_config(clip: float = 0.0, decay_steps: int = 0) -> ml_collections.ConfigDict:
    """The section `adam` of a config."""
    adam = ml_collections.ConfigDict()  # its rate and its decay of weights are optim's
    adam.clip = clip  # longer gradients are shortened to this; 0: none
    # The rate falls by optim.factor every so many steps; 0: at optim.milestones.
    adam.decay_steps = decay_steps
    return ml_collections.ConfigDict({"adam": adam})


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for settings that cannot work."""
    check.at_least(config, 0, "adam.clip", "adam.decay_steps")


def make_optimizer(
    config: ml_collections.ConfigDict, steps_per_epoch: int
) -> tuple[optax.GradientTransformation, dict[str, Schedule]]:
    """The optimiser, and the schedules to report."""
    o, a = config.optim, config.adam
    rate = step_decay(o.learning_rate, o.milestones, o.factor, steps_per_epoch, o.warmup_epochs)
    if a.decay_steps:
        rate = optax.exponential_decay(o.learning_rate, a.decay_steps, o.factor, staircase=True)
    clip = optax.clip_by_global_norm(a.clip) if a.clip else optax.identity()
    optimizer = optax.adamw(rate, weight_decay=o.weight_decay)
    return optax.chain(clip, optimizer), {"learning_rate": rate}
