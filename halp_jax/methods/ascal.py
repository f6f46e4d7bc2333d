"""AS-CAL (Rao et al., Information Sciences 2021): MoCo on embeddings that nothing normalises; HaLP where they are.

Source: pretrain_and_linEval.py and NCE/NCEAverage.py of LZU-SIAT/AS-CAL. An LSTM without a head, the views of
ascal_view.py, and four ways in which the released code is not MoCo's:

* q, k and the queue are raw vectors, the queue's first entries uniform in +-sqrt(3 / dim). Setting
  `normalize` puts all three on the sphere, and HaLP, which walks there, asks for it.
* The first epoch fills the queue and changes no weight (`idle_epochs`).
* The key encoder moves after the optimiser. Here it moves at the start of the next step, before
  it encodes: keys are those of the same weights, for it starts as a copy of the query encoder.
* The last, smaller batch of an epoch is trained on there; here it is left out, as for any queue.
"""

import jax
import ml_collections

from halp_jax.core.hallucinate import halp_loss
from halp_jax.core.sphere import normalize
from halp_jax.methods import ascal_view, check, halp, keys, moco, optim
from halp_jax.methods import streams as st
from halp_jax.methods.base import Method, Spec

SHOWN, NEWEST = ("contrast_accuracy", "mu", "kept"), ("mu",)
FIXED = (*keys.FIXED, "ascal.normalize")
ENCODER, ADVICE = keys.ENCODER, keys.ADVICE
step_flops = keys.step_flops
warn_at_start, find_trouble = halp.warn_at_start, halp.find_collapse


def default_config() -> ml_collections.ConfigDict:
    """The sections of a config that are this method's own."""
    ascal = ml_collections.ConfigDict()
    ascal.normalize = False  # unit vectors (released: not); what HaLP needs
    ascal.idle_epochs = 1  # at the start, in which the queue is filled and no weight changes
    config = keys.default_config(queue_size=16384)
    config.update({"ascal": ascal}, **ascal_view.default_config())
    return config


def check_config(config: ml_collections.ConfigDict, spec: Spec | None = None) -> None:
    """Raises UserError for settings that cannot work."""
    keys.check_config(config, spec)
    ascal_view.check_config(config, spec)
    check.at_least(config, 0, "ascal.idle_epochs")
    if not config.ascal.normalize:
        halp.check_off(
            config, "raw embeddings lie on no sphere to walk on; --config.ascal.normalize=True"
        )


def make_optimizer(config: ml_collections.ConfigDict, steps_per_epoch: int) -> optim.Optimizer:
    """As `optim.make_sgd`, after the idle epochs."""
    return optim.make_sgd(config, steps_per_epoch, idle_epochs=config.ascal.idle_epochs)


def make(config: ml_collections.ConfigDict, spec: Spec, halp_loss=halp_loss) -> Method:
    """The method in all streams of the config. `halp_loss`: as `halp.make_term` has it."""
    raw = not config.ascal.normalize
    pull = keys.make_pull(config, spec, halp_loss)
    place = (lambda z: z) if raw else normalize
    one = moco.make_one(config, spec, ascal_view.make_view(config), pull, place)
    start = one.init

    def init_raw(key):
        params, extra = start(key)
        queue, bound = extra["queue"], (3.0 / config.encoder.dim) ** 0.5
        drawn = jax.random.uniform(
            jax.random.fold_in(key, 1), queue.keys.shape, minval=-bound, maxval=bound
        )
        return params, extra | {"queue": queue._replace(keys=drawn)}

    if raw:
        one = one._replace(init=init_raw, embed=None)
    return st.over_streams(one, config.streams, spec.layout, common=("mu",))
