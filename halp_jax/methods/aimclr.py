"""AimCLR (Guo et al., AAAI 2022), and SkeletonCLR (Li et al., CVPR 2021) as its two-view form; with HaLP.

Queries q of a normal view and e of an extreme one, d of e's map without what stands out most, keys k:

    L = L_CL(q, k) + (D(q, e) + D(q, d)) / 2  +  mu L_HaLP

D pulls the similarities of e and d to the queue toward those of q (D3M). From `aimclr.mine_epoch` on the
nearest neighbours of q, e and d in the queue are positives of q beside its key. Source: net/aimclr.py and
processor/pretrain_aimclr.py of Levigty/AimCLR. HaLP on it is of the slides; its settings were not
released.
"""

import functools

import jax
import jax.numpy as jnp
import ml_collections

from halp_jax.core.contrast import (
    contrast_logits,
    distribution_loss,
    first_is_best,
    mean_over_positives,
)
from halp_jax.core.distill import find_neighbours
from halp_jax.core.hallucinate import halp_loss
from halp_jax.core.sphere import normalize
from halp_jax.encoders import attention_drop
from halp_jax.methods import check, common, halp, keys, normal_view, optim
from halp_jax.methods import streams as st
from halp_jax.methods.base import AXIS, Method, Spec

SHOWN, NEWEST = ("contrast_accuracy", "mu", "kept"), ("mu",)
FIXED, ENCODER, ADVICE = keys.FIXED, keys.ENCODER, keys.ADVICE
make_optimizer = optim.make_sgd
warn_at_start, find_trouble = halp.warn_at_start, halp.find_collapse


def default_config() -> ml_collections.ConfigDict:
    """The sections of a config that are this method's own."""
    aimclr = ml_collections.ConfigDict()
    aimclr.extreme_views = True  # False: SkeletonCLR, query and key alone
    aimclr.mine_epoch = 150  # the key is the only positive before this epoch
    aimclr.neighbours = 1  # that q, e and d find in the queue, each; 0: no mining at any time
    # Attention above it is dropped; above 1 nothing is, as in the release of December 2021.
    aimclr.drop_threshold = 0.7
    aimclr.drop_points = True  # a quirk: each (joint, frame, channel); False: whole frames
    aimclr.drop_scale = "batch"  # a quirk: scaled up by the shares of the whole batch; or "clip"
    aimclr.redraw_keys = False  # released: the key encoder's first weights are not the query's
    aimclr.halp_on = "query"  # what HaLP pulls: q, or "all" of q, e and d
    config = keys.default_config(queue_size=32768)
    config.update({"aimclr": aimclr}, **normal_view.default_config())
    return config


def check_config(config: ml_collections.ConfigDict, spec: Spec | None = None) -> None:
    """Raises UserError for settings that cannot work."""
    keys.check_config(config, spec)
    normal_view.check_config(config)
    choices = {"aimclr.drop_scale": attention_drop.SCALES, "aimclr.halp_on": ("query", "all")}
    check.choices(config, choices)
    check.at_least(config, 0, "aimclr.mine_epoch", "aimclr.neighbours")
    keys.check_neighbours(config, "aimclr.neighbours")
    check.above_zero(config, "aimclr.drop_threshold")
    if config.aimclr.extreme_views and config.normal_view.kind == "moco":
        advice = (
            "extreme views are made of skeletonclr's; or set --config.aimclr.extreme_views=False"
        )
        check.refuse(config, "normal_view.kind", advice)


def make(config: ml_collections.ConfigDict, spec: Spec, halp_loss=halp_loss) -> Method:
    """The method in all streams of the config. `halp_loss`: as `halp.make_term` has it."""
    a, m, tau = config.aimclr, config.moco.momentum, config.moco.temperature
    encoder = common.make_encoder(config, spec.layout, AXIS)
    normal, extreme = normal_view.make_views(config, spec.layout)
    pull = keys.make_pull(config, spec, halp_loss)
    drop = functools.partial(
        attention_drop.drop_by_attention, threshold=a.drop_threshold, points=a.drop_points,
        scale=a.drop_scale, axis_name=AXIS,
    )  # fmt: skip

    def views(keys, batch):
        pair = tuple(normal(key, batch) for key in keys)
        if not a.extreme_views:
            return pair
        return *pair, extreme(jax.random.fold_in(keys[0], 2**31), batch)

    def loss(params, extra, views, key, step):
        drop_q, drop_e, drop_k = common.dropout_keys(key, 3)
        z_q, _, batch_stats = common.forward(
            encoder, params, extra["batch_stats"], views[0], drop_q
        )
        others = []
        if a.extreme_views:
            z_e, _, z_d, batch_stats = common.forward(
                encoder, params, batch_stats, views[2], drop_e, drop
            )
            others = [normalize(z_e), normalize(z_d)]
        key_params = keys.momentum_update(extra["key_params"], params, m)
        z_k, _, key_batch_stats = common.forward(
            encoder, key_params, extra["key_batch_stats"], views[1], drop_k
        )
        z_q, z_k, negatives = normalize(z_q), normalize(z_k), extra["queue"].keys
        logits = [contrast_logits(z, z_k, negatives, tau) for z in (z_q, *others)]
        positive = mine(logits, step)
        loss_cl = mean_over_positives(logits[0], positive)
        loss_d3m = sum(distribution_loss(logits[0], other) for other in logits[1:]) / 2
        pulled = others if a.halp_on == "all" else []
        loss_halp, kept, metrics = keys.push_and_pull(
            pull, config, extra, z_q, z_k, key, step, *pulled
        )
        metrics |= {
            "loss_cl": loss_cl, "contrast_accuracy": first_is_best(logits[0]),
            "positives": jnp.mean(jnp.sum(positive, axis=1, dtype=jnp.float32)),
        }  # fmt: skip
        metrics |= {"loss_d3m": loss_d3m} if others else {}
        extra = kept | keys.states(batch_stats, key_params, key_batch_stats)
        return loss_cl + loss_d3m + loss_halp, (extra, metrics)

    def mine(logits, step):
        """Where the positives of q stand: its key and, once mining is on, neighbours of all views."""
        positive = jnp.zeros(logits[0].shape, bool).at[:, 0].set(True)
        if not (a.neighbours and a.extreme_views):
            return positive
        started = step >= a.mine_epoch * spec.steps_per_epoch
        near = [find_neighbours(jax.lax.stop_gradient(row[:, 1:]), a.neighbours) for row in logits]
        return positive.at[:, 1:].set(functools.reduce(jnp.logical_or, near) & started)

    init = keys.make_init(encoder, pull, config, spec, redrawn=a.redraw_keys)
    return st.over_streams(
        Method(init, views, loss, *common.make_inference(config, spec.layout)),
        config.streams, spec.layout, common=("mu",),
    )  # fmt: skip


def step_flops(config: ml_collections.ConfigDict, spec: Spec) -> float:
    """Model FLOPs of one training step on the global batch: as keys.py counts them.

    The extreme view is one more query; its dropped map has another row of logits.
    """
    queries, rows = (2, 3) if config.aimclr.extreme_views else (1, 1)
    logits = 2.0 * config.moco.queue_size * config.encoder.dim
    clips = len(config.streams) * config.train.batch_size
    return (3.0 * queries + 1) * common.forward_flops(config, spec) + clips * 2.0 * rows * logits
