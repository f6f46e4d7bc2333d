"""Recorded GraphCL batches as ours, and its torch names as our tree."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from halp_jax.datasets import graph_batches, graphs
from halp_jax.methods import base, graph_views, graphcl
from halp_jax.methods.base import AXIS, Spec, TrainState

SHARED = Path(__file__).resolve().parents[2] / "shared"
ROOT = Path(__file__).parents[1]


def config(variant: str = "own", **options) -> ml_collections.ConfigDict:
    """configs/graphcl.py with some settings changed: `halp_mu=1.0` is config.halp.mu."""
    c = runpy.run_path(str(ROOT / "configs" / "graphcl.py"))["get_config"](variant)
    for name, value in options.items():
        section, _, field = name.partition("_")
        c[section][field] = value
    return c


def dataset_of(x, edges, graph_of_node) -> graphs.GraphDataset:
    """The recorded graphs, of one-hot x; loops go."""
    sizes = np.bincount(graph_of_node)
    labels = np.argmax(x, axis=1)[:, None].astype(np.int64)
    made = graphs.build(
        "recorded", sizes, labels, np.zeros((len(x), 0), np.float32),
        *graphs.clean_edges(edges.T, len(x)), classes=np.zeros(len(sizes), int), class_names=["0"],
    )  # fmt: skip
    layout = graphs.GraphLayout((x.shape[1],))
    return graphs.GraphDataset(**{**vars(made), "layout": layout})


def shard_of(dataset, numbers=None, size=0, **options):
    """One batch [nodes ...] of these graphs."""
    numbers = np.arange(len(dataset)) if numbers is None else numbers
    [batch] = graph_batches.make_batches(dataset, numbers, size or len(numbers), **options)
    return {name: leaf[0] for name, leaf in batch.items()}


def to_list(shard):
    """The same shard without tables of neighbours: every edge is one that fits in none."""
    tables = ("sources", "targets", "edges_in", "edges_out")
    late = np.arange(len(shard["senders"]), dtype=np.int32)
    return shard | {name: shard[name][:, :0] for name in tables} | {"late": late}


def cast(g, dtype):
    return g._replace(x=jnp.asarray(g.x, dtype))


def recorded_view(g, kept_nodes, edges, x=None):
    """The view of whole graphs `g` with these nodes (old numbers) and relabelled edges [2, count]."""
    count = len(g.nodes)
    nodes = np.zeros(count, bool)
    nodes[kept_nodes] = True
    codes = kept_nodes[edges[0]].astype(int) * count + kept_nodes[edges[1]]
    own = np.asarray(g.senders).astype(int) * count + np.asarray(g.receivers)
    assert set(codes) <= set(own)
    features = g.x if x is None else g.x.at[kept_nodes].set(x)
    return g._replace(
        x=features, nodes=jnp.asarray(nodes), edges=jnp.asarray(np.isin(own, codes)),
        loops=jnp.zeros(count, bool),
    )  # fmt: skip


def from_torch(arrays, prefix=""):
    """(params, batch_stats) of the released names."""
    arrays = {
        k.removeprefix(prefix): jnp.asarray(v) for k, v in arrays.items() if k.startswith(prefix)
    }
    params, stats = {}, {}

    def dense(name, theirs):
        params[name] = {"kernel": arrays[f"{theirs}.weight"].T, "bias": arrays[f"{theirs}.bias"]}

    for i in range(3):
        dense(f"layer{i}_in", f"encoder.convs.{i}.nn.0")
        dense(f"layer{i}_out", f"encoder.convs.{i}.nn.2")
        norm = f"encoder.bns.{i}"
        params[f"layer{i}_norm"] = {
            "scale": arrays[f"{norm}.weight"], "bias": arrays[f"{norm}.bias"]
        }  # fmt: skip
        if f"{norm}.running_mean" in arrays:
            stats[f"layer{i}_norm"] = {
                "mean": arrays[f"{norm}.running_mean"], "var": arrays[f"{norm}.running_var"]
            }  # fmt: skip
    dense("hidden", "proj_head.0")
    dense("out", "proj_head.2")
    return params, stats


def start(c, layout, arrays, prefix="", dtype=np.float32, **options):
    """(method, optimizer, state) from recorded weights."""
    method = graphcl.make(c, Spec(layout), **options)
    params, stats = jax.tree.map(lambda a: jnp.asarray(a, dtype), from_torch(arrays, prefix))
    optimizer, _ = graphcl.make_optimizer(c, 1)
    extra = {"batch_stats": stats}
    return method, optimizer, TrainState(jnp.int32(0), params, optimizer.init(params), extra)


def make_update(method, optimizer):
    """(state, views) -> (state, metrics) on one device."""
    update = base.make_update(method, optimizer)
    update = jax.vmap(update, (None, 0, None), axis_name=AXIS, axis_size=1)

    @jax.jit
    def run(state, views):
        views = jax.tree.map(lambda leaf: leaf[None], views)
        return jax.tree.map(lambda leaf: leaf[0], update(state, views, jax.random.key(0)))

    return run


def whole(shard, layout, loops="released"):
    return graph_views.whole({n: jnp.asarray(leaf) for n, leaf in shard.items()}, layout, loops)
