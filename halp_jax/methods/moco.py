"""MoCo on skeletons (He et al., CVPR 2020), with HaLP and CMD as terms of its loss.

    L = sum over streams of (L_CL + mu L_HaLP)  +  nu L_CMD

mu = nu = 0 is the baseline of the paper, mu > 0 HaLP, nu > 0 CMD, both together HaLP+CMD. Within a
step the key encoder moves first, keys are encoded, then come loss, queue, and the prototypes of the
queue with the new keys in it.
"""

from collections.abc import Sequence

import jax
import ml_collections

from halp_jax.core.contrast import info_nce
from halp_jax.core.hallucinate import halp_loss
from halp_jax.core.queue import create_queue, newest, push
from halp_jax.core.sphere import normalize
from halp_jax.encoders.bigru import make_encoder
from halp_jax.methods import check, cmd, common, halp
from halp_jax.methods import streams as st
from halp_jax.methods.base import AXIS, Method, Spec
from halp_jax.methods.figures import spread

SHOWN = ("contrast_accuracy", "mu", "kept")  # metrics of the progress line
KEEPS_REST = False  # the last batch of an epoch is left out where it would be smaller
NEWEST = ("mu",)  # metrics that are schedules: of an interval the newest value, not the average
# A run cannot resume when one of these changes; and what a warm start of the encoder takes over.
FIXED = ("moco.queue_size", *halp.FIXED)
ENCODER = ("params", "extra/batch_stats", "extra/key_params", "extra/key_batch_stats")
ADVICE = (  # where the loss is no longer finite
    "a lower --config.optim.learning_rate, --config.optim.warmup_epochs=5 or a higher "
    "--config.moco.temperature"
)
make_optimizer = common.make_optimizer
warn_at_start, find_trouble = halp.warn_at_start, halp.find_collapse


def default_config() -> ml_collections.ConfigDict:
    """The sections of a config that are this method's own."""
    moco = ml_collections.ConfigDict()
    moco.queue_size = 16384  # a multiple of train.batch_size
    moco.temperature = 0.07
    moco.momentum = 0.999  # of the key encoder
    return ml_collections.ConfigDict(
        {"moco": moco, "halp": halp.default_config(), "cmd": cmd.default_config()}
    )


def check_config(config: ml_collections.ConfigDict, spec: Spec | None = None) -> None:
    """Raises UserError for settings that cannot work."""
    common.check_config(config, spec)
    check.at_least(config, 1, "moco.queue_size")
    check.shares(config, "moco.momentum")
    check.above_zero(config, "moco.temperature")
    size, batch_size = config.moco.queue_size, config.train.batch_size
    halp.check_config(config, size, "moco.queue_size")
    cmd.check_config(config, size, "moco.queue_size")
    if size % batch_size:
        advice = f"make it a multiple of train.batch_size={batch_size}"
        check.refuse(config, "moco.queue_size", advice)


def make(
    config: ml_collections.ConfigDict, spec: Spec, halp_loss=halp_loss, axes: Sequence[str] = ()
) -> Method:
    """The method in all streams of the config.

    Args:
        halp_loss: as `halp.make_term` has it.
        axes: mapped axes around the step, for instance of several seeds that are trained at once.
    """
    encoder = make_encoder(config, AXIS)
    m, tau, dim = config.moco.momentum, config.moco.temperature, config.encoder.dim
    view = common.make_view(config)
    entries = min(config.halp.queue_entries, config.moco.queue_size)  # fewer without HaLP alone
    pull = halp.make_term(
        config.halp, dim, tau, spec.steps_per_epoch, axes=(st.AXIS, *axes), halp_loss=halp_loss
    )

    def init(key):
        key_params, key_queue = jax.random.split(key)
        variables = common.init_encoder(encoder, key_params, config, spec)
        params, batch_stats = variables["params"], variables["batch_stats"]
        return params, {
            "batch_stats": batch_stats,
            "key_params": params,  # of the momentum encoder
            "key_batch_stats": batch_stats,
            "queue": create_queue(key_queue, config.moco.queue_size, dim),
            "prototypes": pull.init(),
        }

    def views(keys, batch):
        return tuple(view(key, batch) for key in keys)

    def loss(params, extra, views, key, step):
        follow = jax.lax.stop_gradient(params)
        key_params = jax.tree.map(lambda k, q: m * k + (1.0 - m) * q, extra["key_params"], follow)
        z_k, _, key_batch_stats = common.forward(
            encoder, key_params, extra["key_batch_stats"], views[1]
        )
        z_q, _, batch_stats = common.forward(encoder, params, extra["batch_stats"], views[0])
        z_q, z_k = normalize(z_q), normalize(z_k)
        negatives = extra["queue"].keys
        loss_cl, accuracy = info_nce(z_q, z_k, negatives, tau)
        # Every device gathers the keys of all and keeps the same queue.
        queue = push(extra["queue"], jax.lax.all_gather(z_k, AXIS, axis=0, tiled=True))
        full = queue.pushed > 2 * config.moco.queue_size
        source = halp.Source(newest(queue, entries), full)
        loss_halp, prototypes, figures = pull.loss(extra["prototypes"], z_q, z_k, source, key, step)
        figures |= {"loss_cl": loss_cl, "contrast_accuracy": accuracy, **spread(z_q, z_k)}
        extra = {
            "batch_stats": batch_stats,
            "key_params": key_params,
            "key_batch_stats": key_batch_stats,
            "queue": queue,
            "prototypes": prototypes,
        }
        return loss_cl + loss_halp, (extra, figures, z_q, z_k, negatives)

    return st.over_streams(
        Method(init, views, loss, *common.make_inference(config)), config.streams, spec.layout,
        between=cmd.make_terms(config.cmd, config.streams), common=("mu",),
    )  # fmt: skip


def step_flops(config: ml_collections.ConfigDict, spec: Spec) -> float:
    """Model FLOPs of one training step on the global batch, all streams.

    Query and key forward, query backward (twice a forward), and the products with the queue (logits
    and their gradient). What is recomputed or elementwise does not count, so the rate that follows
    from it is a lower bound of what the machine does.
    """
    logits = 2.0 * config.moco.queue_size * config.encoder.dim
    clips = len(config.streams) * config.train.batch_size
    return 4.0 * common.forward_flops(config, spec) + clips * 2.0 * logits
