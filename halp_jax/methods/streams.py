"""Joint, motion and bone side by side: a method of one stream becomes one of several.

The streams are a leading axis of params and extra, `vmap`ped over, so three encoders are batched
matrix products and one step. They see the same views. A stream's numbers depend on its name, not on
its company, as long as no term between the streams joins them.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from halp_jax.methods.base import Batch, Method
from halp_jax.skeletons.augment import STREAMS, make_stream
from halp_jax.skeletons.layout import Layout

AXIS = "streams"  # the mapped axis of the streams


def over_streams(
    one: Method,
    names: Sequence[str],
    layout: Layout,
    *,
    between: Sequence[Callable] = (),
    common: Sequence[str] = (),
) -> Method:
    """The method `one` in each of the streams, their losses added up.

    Args:
        between: terms of the loss that see all streams, (step, *seen) -> (loss, metrics). `seen` is
            what `one.loss` returns behind its metrics, (loss, (extra, metrics, *seen)), with the
            streams as leading axis.
        common: metrics that are the same in all streams.
    """
    numbers = jnp.array([STREAMS.index(name) for name in names])

    def split(batch: Batch) -> Batch:
        return split_streams(batch, names, layout)

    def keys(key):
        return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)

    def init(key):
        return jax.vmap(one.init)(keys(key))

    def views(keys, batch):
        return tuple(split(view) for view in one.views(keys, batch))

    def loss(params, extra, views, key, step):
        each = jax.vmap(one.loss, (0, 0, 0, 0, None), axis_name=AXIS)
        losses, (extra, metrics, *seen) = each(params, extra, views, keys(key), step)
        metrics = name_metrics(names, metrics, common)
        total = jnp.sum(losses)
        for term in between:
            more, found = term(step, *seen)
            total, metrics = total + more, metrics | found
        return total, (extra, metrics)

    def infer(function):
        return lambda params, extra, batch: jax.vmap(function)(params, extra, split(batch))

    return Method(init, views, loss, infer(one.encode), one.embed and infer(one.embed))


def split_streams(batch: Batch, names: Sequence[str], layout: Layout) -> Batch:
    """A batch with the streams as leading axis: frames [streams, batch, time, bodies, joints, xyz]."""

    def one(clip):
        return jnp.stack([make_stream(clip, name, layout) for name in names])

    frames = jnp.swapaxes(jax.vmap(one)(batch["frames"]), 0, 1)
    rest = {
        name: jnp.broadcast_to(leaf, (len(names), *leaf.shape))
        for name, leaf in batch.items()
        if name != "frames"
    }
    return rest | {"frames": frames}


def name_metrics(names: Sequence[str], metrics: dict, common: Sequence[str] = ()) -> dict:
    """The mean over streams of each metric [streams], and with several streams each one's own too."""
    named = {}
    for name, value in metrics.items():
        named[name] = value[0] if name in common else jnp.mean(value)
        if len(names) > 1 and name not in common:
            named |= {f"{name}_{stream}": value[i] for i, stream in enumerate(names)}
    return named
