"""What methods with a key encoder and a queue share (MoCo; He et al., CVPR 2020), and HaLP from both.

    init = keys.make_init(encoder, pull, config, spec)
    ...
    key_params = keys.momentum_update(extra["key_params"], params, m)  # the key encoder moves first
    loss_halp, kept, metrics = keys.push_and_pull(pull, config, extra, z_q, z_k, key, step)

`kept` is the queue with the new keys in it and the prototypes made of it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Key

from halp_jax.core.hallucinate import halp_loss
from halp_jax.core.queue import create_queue, newest, push
from halp_jax.core.sphere import similarities
from halp_jax.methods import check, common, halp
from halp_jax.methods import streams as st
from halp_jax.methods.base import AXIS, Spec

FIELD = "moco.queue_size"
FIXED = (FIELD, *halp.FIXED)  # a run cannot resume when one of these changes
# What a warm start of the encoder takes over.
ENCODER = ("params", "extra/batch_stats", "extra/key_params", "extra/key_batch_stats")
STATES = ("batch_stats", "key_params", "key_batch_stats")  # what an encoder has besides its params
ADVICE = (
    "a lower --config.optim.learning_rate, --config.optim.warmup_epochs=5 or a higher "
    "--config.moco.temperature"
)


def default_config(queue_size: int) -> ml_collections.ConfigDict:
    """The sections `moco` and `halp` of a config."""
    moco = ml_collections.ConfigDict()
    moco.queue_size = queue_size  # a multiple of train.batch_size
    moco.temperature = 0.07
    moco.momentum = 0.999  # of the key encoder
    return ml_collections.ConfigDict({"moco": moco, "halp": halp.default_config()})


def check_config(config: ml_collections.ConfigDict, spec: Spec | None = None) -> None:
    """Raises UserError for settings that cannot work."""
    common.check_config(config, spec)
    check.at_least(config, 1, FIELD, "encoder.dim")
    check.shares(config, "moco.momentum")
    check.above_zero(config, "moco.temperature")
    size, batch_size = config.moco.queue_size, config.train.batch_size
    halp.check_config(config, size, FIELD)
    if size % batch_size:
        check.refuse(config, FIELD, f"make it a multiple of train.batch_size={batch_size}")


def check_neighbours(config: ml_collections.ConfigDict, field: str) -> None:
    """Raises UserError where more of them are wanted than the queue holds."""
    size = config.moco.queue_size
    if check.get(config, field) > size:
        check.refuse(config, field, f"it must not exceed {FIELD}={size}")


def make_pull(
    config: ml_collections.ConfigDict, spec: Spec, halp_loss: Callable = halp_loss
) -> halp.Term:
    """HaLP's term of one stream of several; `halp_loss` as `halp.make_term` has it."""
    return halp.make_term(
        config.halp, config.encoder.dim, config.moco.temperature, spec.steps_per_epoch,
        axes=(st.AXIS,), halp_loss=halp_loss,
    )  # fmt: skip


def make_init(
    encoder: Any,
    pull: halp.Term,
    config: ml_collections.ConfigDict,
    spec: Spec,
    *,
    redrawn: bool = False,
) -> Callable[[Key[Array, ""]], tuple[Any, dict[str, Any]]]:
    """-> init(key): the encoder, the key encoder as a copy of it, a random queue, no prototypes.

    Args:
        redrawn: the key encoder's weights are drawn anew instead.
    """

    def init(key):
        key_params, key_queue = jax.random.split(key)
        variables = common.init_encoder(encoder, key_params, config, spec)
        params, batch_stats = variables["params"], variables["batch_stats"]
        copy = params
        if redrawn:
            other = jax.random.fold_in(key_params, 1)
            copy = common.init_encoder(encoder, other, config, spec)["params"]
        return params, {
            "batch_stats": batch_stats,
            "key_params": copy,
            "key_batch_stats": batch_stats,
            "queue": create_queue(key_queue, config.moco.queue_size, config.encoder.dim),
            "prototypes": pull.init(),
        }

    return init


def states(*values: Any) -> dict[str, Any]:
    """Those of STATES after a step."""
    return dict(zip(STATES, values, strict=True))


def momentum_update(key_params: Any, params: Any, momentum: Any) -> Any:
    """The key encoder after it has moved toward the query encoder; no gradient goes through."""
    params = jax.lax.stop_gradient(params)
    return jax.tree.map(lambda k, q: momentum * k + (1.0 - momentum) * q, key_params, params)


def push_and_pull(
    pull: halp.Term,
    config: ml_collections.ConfigDict,
    extra: dict[str, Any],
    z_q: Float[Array, "batch dim"],
    z_k: Float[Array, "batch dim"],
    key: Key[Array, ""],
    step: Any,
    *others: Float[Array, "batch dim"],
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """(mu L_HaLP, {"queue", "prototypes"}, metrics) once the loss on the old queue is taken.

    Args:
        others: more queries of the same clips, pulled to positives of the same anchors; the loss is
            then the mean over all kinds of queries.
    """
    # Every device gathers the keys of all and keeps the same queue.
    every = jax.lax.all_gather(z_k, AXIS, axis=0, tiled=True)
    queue = push(extra["queue"], every)
    entries = min(config.halp.queue_entries, config.moco.queue_size)  # fewer without HaLP alone
    full = queue.pushed > 2 * config.moco.queue_size
    source = halp.Source(newest(queue, entries), full)
    loss, prototypes, metrics = pull.loss(extra["prototypes"], z_q, z_k, source, key, step)
    idle = source._replace(ready=jnp.zeros_like(full))  # prototypes are renewed once
    for number, z in enumerate(others):
        own = jax.random.fold_in(key, 2**31 - 1 - number)
        loss += pull.loss(extra["prototypes"], z, z_k, idle, own, step)[0]
    kept = {"queue": queue, "prototypes": prototypes}
    return loss / (1 + len(others)), kept, metrics | spread(z_q, z_k, every)


def spread(
    z_q: Float[Array, "batch dim"], z_k: Float[Array, "batch dim"], every: Float[Array, "all dim"]
) -> dict[str, Array]:
    """Alignment and uniformity (Wang & Isola 2020) of the global batch: to watch, no part of the loss.

    `z_q` and `z_k` are this device's, `every` is the keys of all.
    """
    count, total = len(z_k), len(every)
    alignment = jnp.mean(jnp.sum(jnp.square(z_q - z_k), axis=-1))
    own = jax.lax.axis_index(AXIS) * count + jnp.arange(count)
    others = jnp.arange(total) != own[:, None]
    squares = (jnp.sum(jnp.square(z), axis=-1) for z in (z_k, every))
    near = jnp.exp(similarities(4.0 * z_k, every) - 2.0 * jnp.add.outer(*squares)) * others
    mean = jax.lax.pmean(jnp.sum(near) / (count * max(total - 1, 1)), AXIS)
    return jax.lax.stop_gradient(
        {"alignment": alignment, "uniformity": jnp.log(jnp.maximum(mean, 1e-30))}
    )


def step_flops(config: ml_collections.ConfigDict, spec: Spec) -> float:
    """Model FLOPs of one training step on the global batch, all streams.

    Query and key forward, query backward (twice a forward), and the products with the queue (logits
    and their gradient). What is recomputed or elementwise does not count, so the rate that follows
    from it is a lower bound of what the machine does.
    """
    logits = 2.0 * config.moco.queue_size * config.encoder.dim
    clips = len(config.streams) * config.train.batch_size
    return 4.0 * common.forward_flops(config, spec) + clips * 2.0 * logits
