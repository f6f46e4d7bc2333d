"""MoCo on skeletons (He et al., CVPR 2020), with HaLP and CMD as terms of its loss.

    L = sum over streams of (L_CL + mu L_HaLP)  +  nu L_CMD

mu = nu = 0 is the baseline of the paper, mu > 0 HaLP, nu > 0 CMD, both together HaLP+CMD. Within a
step the key encoder moves first, keys are encoded, then come loss, queue, and the prototypes of the
queue with the new keys in it.
"""

from collections.abc import Callable

import ml_collections

from halp_jax.core.contrast import info_nce
from halp_jax.core.hallucinate import halp_loss
from halp_jax.core.sphere import normalize
from halp_jax.methods import cmd, common, halp, keys, optim
from halp_jax.methods import streams as st
from halp_jax.methods.base import AXIS, Method, Spec

SHOWN, NEWEST = ("contrast_accuracy", "mu", "kept"), ("mu",)
FIXED, ENCODER, ADVICE = keys.FIXED, keys.ENCODER, keys.ADVICE
make_optimizer, step_flops = optim.make_sgd, keys.step_flops
warn_at_start, find_trouble = halp.warn_at_start, halp.find_collapse


def default_config() -> ml_collections.ConfigDict:
    """The sections of a config that are this method's own."""
    config = keys.default_config(queue_size=16384)
    config.cmd = cmd.default_config()
    return config


def check_config(config: ml_collections.ConfigDict, spec: Spec | None = None) -> None:
    """Raises UserError for settings that cannot work."""
    keys.check_config(config, spec)
    cmd.check_config(config)


def make(config: ml_collections.ConfigDict, spec: Spec, halp_loss=halp_loss) -> Method:
    """The method in all streams of the config. `halp_loss`: as `halp.make_term` has it."""
    pull = keys.make_pull(config, spec, halp_loss)
    return st.over_streams(
        make_one(config, spec, common.make_view(config), pull), config.streams, spec.layout,
        between=cmd.make_terms(config.cmd, config.streams), common=("mu",),
    )  # fmt: skip


def make_one(
    config: ml_collections.ConfigDict,
    spec: Spec,
    view: Callable,
    pull: halp.Term,
    place: Callable = normalize,
) -> Method:
    """The method in one stream.

    Args:
        view: (key, batch) -> batch.
        place: of embeddings, what comes before they are compared.
    """
    encoder = common.make_encoder(config, spec.layout, AXIS)
    m, tau = config.moco.momentum, config.moco.temperature

    def views(keys, batch):
        return tuple(view(key, batch) for key in keys)

    def loss(params, extra, views, key, step):
        drop_q, drop_k = common.dropout_keys(key, 2)
        key_params = keys.momentum_update(extra["key_params"], params, m)
        z_k, _, key_batch_stats = common.forward(
            encoder, key_params, extra["key_batch_stats"], views[1], drop_k
        )
        z_q, _, batch_stats = common.forward(
            encoder, params, extra["batch_stats"], views[0], drop_q
        )
        z_q, z_k = place(z_q), place(z_k)
        negatives = extra["queue"].keys
        loss_cl, accuracy = info_nce(z_q, z_k, negatives, tau)
        loss_halp, kept, metrics = keys.push_and_pull(pull, config, extra, z_q, z_k, key, step)
        metrics |= {"loss_cl": loss_cl, "contrast_accuracy": accuracy}
        extra = kept | keys.states(batch_stats, key_params, key_batch_stats)
        return loss_cl + loss_halp, (extra, metrics, z_q, z_k, negatives)

    init = keys.make_init(encoder, pull, config, spec)
    return Method(init, views, loss, *common.make_inference(config, spec.layout))
