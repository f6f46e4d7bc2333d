"""Steps of MoCo from ready views, as the recorded runs and the peers give them."""

import jax
import jax.numpy as jnp
from _released import full_length

from halp_jax import methods
from halp_jax.core.hallucinate import halp_loss
from halp_jax.encoders.bigru import flatten_clips
from halp_jax.methods import base, moco, streams
from halp_jax.methods.base import AXIS, Spec
from halp_jax.skeletons.layout import NTU25


def create_state(config, layout=NTU25):
    return methods.create_state(config, Spec(layout))


def make_train_step(config, steps_per_epoch=1):
    return methods.make_train_step(config, Spec(NTU25, steps_per_epoch))


def make_update(config, steps_per_epoch=1000, halp=halp_loss):
    """(state, views, key) -> (state, metrics), for one device of several."""
    method = moco.make(config, Spec(NTU25, steps_per_epoch), halp)
    return base.make_update(method, *moco.make_optimizer(config, steps_per_epoch))


def run_update(config, state, views, halp=halp_loss, **options):
    """One step on one device -> (state, metrics)."""
    update = make_update(config, 1000, halp)
    update = jax.vmap(update, (None, 0, None), axis_name=AXIS, axis_size=1)
    views = jax.tree.map(lambda x: x[None], views)
    result = jax.jit(update, **options)(state, views, jax.random.key(0))
    return jax.tree.map(lambda x: x[0], result)


def split_views(config, *clips):
    """Clips [batch, time, bodies, joints, xyz] as views of every stream."""
    batches = ({"frames": frames, "length": full_length(frames)} for frames in clips)
    return tuple(streams.split_streams(batch, config.streams, NTU25) for batch in batches)


def stream_inputs(config, clips):
    """What the encoders see of clips, flat: [streams, batch, time, features]."""
    [view] = split_views(config, clips)
    return jax.vmap(flatten_clips)(view["frames"])


def views_of(*features):
    """Flat features [streams, batch, time, 150] as views: the way back of `flatten_clips`."""
    views = []
    for x in features:
        frames = jnp.asarray(x).reshape(*x.shape[:3], NTU25.num_joints, 3, NTU25.bodies)
        length = jnp.full(x.shape[:2], x.shape[2], jnp.int32)
        views.append({"frames": jnp.moveaxis(frames, -1, 3), "length": length})
    return tuple(views)


def encode(config, params, batch_stats, frames, layout=NTU25):
    """Features [streams, batch, features] of clips."""
    method = methods.make_method(config, Spec(layout))
    batch = {"frames": frames, "length": full_length(frames)}
    return method.encode(params, {"batch_stats": batch_stats}, batch)


def change(state, **kept):
    """The state with other parts of `extra`."""
    return state.replace(extra=state.extra | kept)
