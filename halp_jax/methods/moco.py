"""MoCo on skeletons, with HaLP and CMD as two more terms of its loss, in one pure train step.

    L = sum over streams of (L_CL + mu L_HaLP)  +  nu L_CMD

mu = nu = 0 is the baseline of the paper, mu > 0 HaLP, nu > 0 CMD, both together HaLP+CMD. The S
streams (joint, motion, bone) are a leading axis of parameters, queues and prototypes, vmapped over;
one stream is no special case. The step is written against the mapped axis "data": a batch leaf is a
device's share, the state is the same everywhere. Every random number is a function of (seed, step,
stream, place in the global batch), so neither a restart nor the number of devices changes the run.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import optax
from jaxtyping import Array, Float, Int

from halp_jax.core.contrast import info_nce
from halp_jax.core.distill import cmd_loss
from halp_jax.core.hallucinate import halp_loss
from halp_jax.core.kmeans import spherical_kmeans
from halp_jax.core.queue import MemoryQueue, create_queue, newest, push
from halp_jax.core.sphere import normalize
from halp_jax.encoders.bigru import BiGRU
from halp_jax.methods.figures import name_figures, name_pairs, spread
from halp_jax.methods.schedule import Schedule, ramp, step_decay
from halp_jax.skeletons.augment import ViewSettings, random_view
from halp_jax.skeletons.layout import Layout
from halp_jax.skeletons.streams import STREAMS, make_stream, to_features

AXIS = "data"  # the mapped axis over which the batch is spread


@flax.struct.dataclass
class TrainState:
    """Everything a run is. Leaves have a leading axis of S streams, but for `step` and `opt_state`'s
    counters. (No shapes are annotated: templates and maps of a state hold other things than arrays.)
    """

    step: Any  # int32 scalar
    params: Any
    key_params: Any  # of the momentum encoder
    batch_stats: Any
    key_batch_stats: Any
    opt_state: Any
    queue: MemoryQueue
    prototypes: Any  # [streams, m, dim], zeros until the first k-means


def make_encoder(config: ml_collections.ConfigDict, axis_name: str | None = None) -> BiGRU:
    e, train = config.encoder, config.train
    # Runs from before there was a choice have neither.
    how = train.get("precision", "float32"), train.get("recurrence", "scan")
    return BiGRU(e.width, e.num_layers, e.direction, e.dim, e.pooling, *how, axis_name)


def make_learning_rate(config: ml_collections.ConfigDict, steps_per_epoch: int) -> Schedule:
    o = config.optim
    return step_decay(o.learning_rate, o.milestones, o.factor, steps_per_epoch, o.warmup_epochs)


def make_optimizer(
    config: ml_collections.ConfigDict, steps_per_epoch: int
) -> optax.GradientTransformation:
    """SGD with momentum and weight decay on all parameters, in torch.optim.SGD's order."""
    return optax.chain(
        optax.add_decayed_weights(config.optim.weight_decay),
        optax.trace(decay=config.optim.momentum),
        optax.scale_by_learning_rate(make_learning_rate(config, steps_per_epoch)),
    )


def create_state(config: ml_collections.ConfigDict, layout: Layout) -> TrainState:
    """The state before the first step. A stream's numbers depend on its name, not on its company."""
    encoder = make_encoder(config)
    x = jnp.zeros((1, config.views.num_frames, layout.bodies * layout.num_joints * 3))

    def one_stream(stream):
        key = jax.random.fold_in(jax.random.key(config.seed), stream)
        key_params, key_queue = jax.random.split(key)
        variables = encoder.init(key_params, x, train=False)
        queue = create_queue(key_queue, config.moco.queue_size, config.encoder.dim)
        return variables["params"], variables["batch_stats"], queue

    # Jitted, for eagerly each of the encoder's many small operations would be compiled by itself.
    params, batch_stats, queue = jax.jit(jax.vmap(one_stream))(_stream_ids(config))
    copy = jax.tree.map(jnp.array, (params, batch_stats))  # donated states must not share leaves
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        key_params=copy[0],
        batch_stats=batch_stats,
        key_batch_stats=copy[1],
        opt_state=make_optimizer(config, 1).init(params),
        queue=queue,
        prototypes=jnp.zeros((len(config.streams), config.halp.num_prototypes, config.encoder.dim)),
    )


def stream_inputs(
    config: ml_collections.ConfigDict, layout: Layout, frames: Float[Array, "batch t m v c"]
) -> Float[Array, "streams batch t features"]:
    """Clips [batch, 64, bodies, joints, 3] to what the S encoders see."""

    def one(clip):
        return jnp.stack([to_features(make_stream(clip, s, layout)) for s in config.streams])

    return jnp.swapaxes(jax.vmap(one)(frames), 0, 1)


def encode(
    config: ml_collections.ConfigDict,
    layout: Layout,
    params: Any,
    batch_stats: Any,
    frames: Float[Array, "batch t m v c"],
) -> Float[Array, "streams batch features"]:
    """Features of the top GRU layer in evaluation mode, a stream each."""
    return _infer(config, layout, params, batch_stats, frames)[1]


def embed(
    config: ml_collections.ConfigDict,
    layout: Layout,
    params: Any,
    batch_stats: Any,
    frames: Float[Array, "batch t m v c"],
) -> Float[Array, "streams batch dim"]:
    """Points on the sphere, where queue, prototypes and positives live, in evaluation mode."""
    return normalize(_infer(config, layout, params, batch_stats, frames)[0])


def _infer(config, layout, params, batch_stats, frames):
    def one(params, batch_stats, x):
        variables = {"params": params, "batch_stats": batch_stats}
        return make_encoder(config).apply(variables, x, train=False)

    return jax.vmap(one)(params, batch_stats, stream_inputs(config, layout, frames))


def make_train_step(config: ml_collections.ConfigDict, layout: Layout, steps_per_epoch: int):
    """The step of a run: (state, batch) -> (state, metrics). `batch` as in datasets/pipeline.py."""
    v = config.views
    settings = ViewSettings(
        v.num_frames,
        tuple(v.crop),
        v.min_frames,
        v.shear_probability,
        v.shear,
        v.num_corrupted_joints,
    )
    update = make_update(config, steps_per_epoch)

    def train_step(state: TrainState, batch: dict[str, Array]):
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        key_query, key_key, key_update = jax.random.split(key, 3)

        def views(key):
            keys = sample_keys(key, batch["length"].shape[0])
            clips = jax.vmap(random_view, in_axes=(0, 0, 0, None))(
                keys, batch["frames"], batch["length"], settings
            )
            return stream_inputs(config, layout, clips)

        return update(state, views(key_query), views(key_key), key_update)

    return train_step


def make_update(config: ml_collections.ConfigDict, steps_per_epoch: int, halp=halp_loss):
    """The step from two views on: (state, x_q, x_k, key) -> (state, metrics); x [S, B, T, features].

    `halp` is the HaLP term, a parameter so that a test can replay recorded draws.
    """
    encoder = make_encoder(config, AXIS)
    optimizer = make_optimizer(config, steps_per_epoch)
    h, c, tau = config.halp, config.cmd, config.moco.temperature
    learning_rate = make_learning_rate(config, steps_per_epoch)
    mu_at = ramp(h.mu, h.start_epoch, h.ramp_epochs, steps_per_epoch)

    def encode_one(params, batch_stats, x):
        variables = {"params": params, "batch_stats": batch_stats}
        (z, _), new = encoder.apply(variables, x, train=True, mutable=["batch_stats"])
        return normalize(z), new["batch_stats"]

    hallucinate = functools.partial(
        halp, temperature=tau, num_positives=h.num_positives, solver=h.solver,
        estimator=h.estimator, draw=h.draw, lam=h.lam, axis_name=AXIS,
    )  # fmt: skip
    distill = functools.partial(
        cmd_loss, topk=c.topk, teacher_temperature=c.teacher_temperature,
        student_temperature=c.student_temperature,
    )  # fmt: skip

    def update(state: TrainState, x_q, x_k, key):
        key_params = jax.tree.map(
            lambda k, q: config.moco.momentum * k + (1.0 - config.moco.momentum) * q,
            state.key_params,
            state.params,
        )
        z_k, key_batch_stats = jax.vmap(encode_one)(key_params, state.key_batch_stats, x_k)

        stream_keys = jax.vmap(lambda s: jax.random.fold_in(key, s))(_stream_ids(config))
        halp_keys = jax.vmap(lambda k: sample_keys(k, x_q.shape[1]))(stream_keys)
        # HaLP waits for prototypes, and those for a queue full of real keys.
        ready = jnp.any(state.prototypes != 0)
        mu = mu_at(state.step) * ready

        def loss_fn(params):
            z_q, batch_stats = jax.vmap(encode_one)(params, state.batch_stats, x_q)
            contrast = jax.vmap(info_nce, in_axes=(0, 0, 0, None))
            loss_cl, accuracy = contrast(z_q, z_k, state.queue.keys, tau)
            figures = {"loss_cl": loss_cl, "contrast_accuracy": accuracy}
            figures |= jax.vmap(spread)(z_q, z_k)
            loss_halp = loss_cmd = 0.0
            if h.mu:
                loss_halp, positives = jax.vmap(hallucinate)(halp_keys, z_q, z_k, state.prototypes)
                figures |= {"loss_halp": loss_halp, **positives}
            figures = name_figures(config.streams, figures)
            if c.nu:
                loss_cmd, terms = distill(z_q, z_k, state.queue.keys)
                figures |= {"loss_cmd": loss_cmd, **name_pairs("kl", config.streams, terms)}
            loss = jnp.sum(loss_cl + mu * loss_halp) + c.nu * loss_cmd
            return loss, (batch_stats, figures)

        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (batch_stats, figures)), grads = gradient(state.params)
        grads = jax.lax.pmean(grads, AXIS)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)

        # Every device gathers the keys of all and keeps the same queue.
        all_keys = jax.lax.all_gather(z_k, AXIS, axis=1, tiled=True)
        queue = jax.vmap(push)(state.queue, all_keys)
        prototypes = state.prototypes
        if h.mu:
            full = queue.pushed[0] > 2 * config.moco.queue_size
            due = ((state.step + 1) % h.update_every == 0) | ~ready
            prototypes = jax.lax.cond(
                full & due & (mu_at(state.step + 1) > 0),
                lambda: jax.vmap(cluster)(stream_keys, queue, state.prototypes),
                lambda: state.prototypes,
            )

        metrics = {"loss": loss, "learning_rate": learning_rate(state.step)}
        metrics |= {"grad_norm": optax.tree.norm(grads), "mu": mu}
        metrics |= figures
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            key_params=key_params,
            batch_stats=batch_stats,
            key_batch_stats=key_batch_stats,
            opt_state=opt_state,
            queue=queue,
            prototypes=prototypes,
        )
        return state, jax.lax.pmean(metrics, AXIS)

    def cluster(key, queue, last):
        """Prototypes of the newest keys; the same on every device, for all draw alike."""

        def run(start):
            return spherical_kmeans(
                key,
                newest(queue, h.queue_entries),
                h.num_prototypes,
                centroids=start,
                mean=h.kmeans_mean,
                restarts=h.kmeans_restarts,
                tol=h.kmeans_tol,
                max_iter=h.kmeans_max_iterations,
            ).centroids

        if not h.kmeans_warm_start:
            return run(None)
        return jax.lax.cond(jnp.any(last != 0), lambda: run(last), lambda: run(None))

    return update


def sample_keys(key, batch: int):
    """A key for each local sample, by its place in the global batch."""
    place = jax.lax.axis_index(AXIS) * batch + jnp.arange(batch)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(place)


def _stream_ids(config: ml_collections.ConfigDict) -> Int[Array, "streams"]:
    return jnp.array([STREAMS.index(stream) for stream in config.streams])
