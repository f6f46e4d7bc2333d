"""Graphs -> batches of one size, so that a run compiles once.

A batch is S shards, one for each device, as the leading axis of every array. A shard holds G graphs,
their nodes one after the other (N of them) and their edges sorted by target (E); N and E are the
largest that any batch of the run needs. The last node is a spare one: what is not there points to it.

    labels [S, N, columns], attributes [S, N, A], graph_of_node [S, N], place_in_graph [S, N]
    node_mask [S, N], looped [S, N]       looped: has a self loop in the released code
    senders, receivers [S, E], edge_mask [S, E]
    sources, targets [S, N, K]            a node's neighbours, in and out; K = 0 where there are hubs
    first_in, first_out [S, N], by_sender [S, E]    edges i of node n: first_in[n] + i in the order
                                          of the list, by_sender[first_out[n] + i] of those it sends
    graph_mask, num_nodes, num_edges, label, index [S, G]
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int

from halp_jax.datasets.order import epoch_order

Batch = dict[str, np.ndarray]
# Summing over a table of neighbours takes a quarter of the time that summing over a list of edges
# takes on a CPU, or less, as long as the table is not mostly empty.
MAX_COLUMNS = 32


def training_batches(
    dataset: Any,
    indices: Int[np.ndarray, " chosen"],
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    num_devices: int = 1,
    process: tuple[int, int] = (0, 1),
    keeps_rest: bool = True,
) -> Iterator[Batch]:
    """Endless batches from `start_step` on: the graphs are shuffled once, as GraphCL's are.

    So an epoch has the same batches as the one before it, the last of them with fewer graphs.

    Args:
        num_devices: of all processes together; process i of n gets the i-th part of the shards.
    """
    order = np.asarray(indices)[epoch_order(len(indices), seed, 0)]
    if not keeps_rest:
        order = order[: len(order) // batch_size * batch_size]
    batches = make_batches(dataset, order, batch_size, num_devices)
    number, count = process
    own = slice(number * num_devices // count, (number + 1) * num_devices // count)
    for step in itertools.count(start_step):
        yield {name: leaf[own] for name, leaf in batches[step % len(batches)].items()}


def make_batches(
    dataset: Any,
    numbers: Int[np.ndarray, " chosen"],
    batch_size: int,
    num_shards: int = 1,
    *,
    sizes: tuple[int, int] | None = None,
    padding: float = 1.0,
) -> list[Batch]:
    """The graphs in this order, as batches of one size.

    Args:
        sizes: nodes and edges of a shard; by default of the largest of these, as `find_sizes` has them.
        padding: times as large as need be.
    """
    groups = _group(numbers, batch_size, num_shards)
    nodes, edges = sizes or find_sizes(dataset, numbers, batch_size, num_shards)
    shape = (-(-batch_size // num_shards), int(padding * nodes) + 1, max(int(padding * edges), 1))
    columns = _count_columns(dataset, numbers)
    batches = []
    for shards in groups:
        made = [_make_shard(dataset, group, *shape, columns) for group in shards]
        batches.append({name: np.stack([shard[name] for shard in made]) for name in made[0]})
    return batches


def find_sizes(
    dataset: Any, numbers: Int[np.ndarray, " chosen"], batch_size: int, num_shards: int = 1
) -> tuple[int, int]:
    """The most nodes, and the most edges, of a shard when the graphs come in this order."""
    shards = [shard for batch in _group(numbers, batch_size, num_shards) for shard in batch]
    counts = dataset.lengths.astype(np.int64), np.diff(dataset.first_edge)
    nodes, edges = (max(int(count[shard].sum()) for shard in shards) for count in counts)
    return nodes, edges


def _group(numbers: np.ndarray, batch_size: int, num_shards: int) -> list[list[np.ndarray]]:
    """For each batch the graphs of each shard, of which the last may have fewer, or none."""
    slots = -(-batch_size // num_shards)
    batches = [numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size)]
    return [[b[s * slots : (s + 1) * slots] for s in range(num_shards)] for b in batches]


def _count_columns(dataset: Any, numbers: np.ndarray) -> int:
    """The highest number of neighbours; 0 where a table of them would be too wide."""
    chosen = np.zeros(len(dataset), bool)
    chosen[numbers] = True
    edges = dataset.edges[np.repeat(chosen, np.diff(dataset.first_edge))]
    most = max((int(np.bincount(side).max()) for side in edges.T if len(side)), default=1)
    return most if most <= MAX_COLUMNS else 0


def _ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """first[i], first[i] + 1 ... (counts[i] of them), one range after the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - ends + counts, counts)


def _make_shard(
    dataset: Any, numbers: np.ndarray, slots: int, size: int, num_edges: int, columns: int
) -> Batch:
    counts = dataset.lengths[numbers].astype(np.int64)
    edge_counts = np.diff(dataset.first_edge)[numbers]
    rows = _ranges(dataset.first_node[numbers], counts)
    graph = np.repeat(np.arange(len(numbers)), counts)
    begin = np.cumsum(counts) - counts
    shift = begin - dataset.first_node[numbers]
    edges = dataset.edges[_ranges(dataset.first_edge[numbers], edge_counts)]
    edges = edges + np.repeat(shift, edge_counts)[:, None]
    edges = edges[np.lexsort((edges[:, 0], edges[:, 1]))]
    senders, receivers = edges.T
    by_sender = np.argsort(senders, kind="stable")
    first_in, first_out = (
        np.searchsorted(receivers, np.arange(size)),
        np.searchsorted(senders[by_sender], np.arange(size)),
    )
    place = np.arange(len(rows)) - begin[graph]
    top = np.full(len(numbers), -1)
    np.maximum.at(top, graph[receivers], np.maximum(place[receivers], place[senders]))

    def pad(values: np.ndarray, length: int, fill: Any = 0) -> np.ndarray:
        padded = np.full((length, *values.shape[1:]), fill, values.dtype)
        padded[: len(values)] = values
        return padded

    def table(first: np.ndarray, others: np.ndarray, owners: np.ndarray) -> np.ndarray:
        found = np.full((size, columns), size - 1, np.int32)
        if columns:
            found[owners, np.arange(len(owners)) - first[owners]] = others
        return found

    spare, whole = size - 1, np.int32
    return {
        "labels": pad(dataset.node_labels[rows], size),
        "attributes": pad(dataset.attributes[rows], size),
        "graph_of_node": pad(graph.astype(whole), size, slots - 1),
        "place_in_graph": pad(place.astype(whole), size),
        "node_mask": pad(np.ones(len(rows), bool), size),
        "looped": pad(place < top[graph], size),
        "senders": pad(senders.astype(whole), num_edges, spare),
        "receivers": pad(receivers.astype(whole), num_edges, spare),
        "edge_mask": pad(np.ones(len(edges), bool), num_edges),
        "sources": table(first_in, senders, receivers),
        "targets": table(first_out, receivers[by_sender], senders[by_sender]),
        "first_in": first_in.astype(whole),
        "first_out": first_out.astype(whole),
        "by_sender": pad(by_sender.astype(whole), num_edges),
        "graph_mask": pad(np.ones(len(numbers), bool), slots),
        "num_nodes": pad(counts.astype(whole), slots),
        "num_edges": pad(edge_counts.astype(whole), slots),
        "label": pad(dataset.labels[numbers].astype(whole), slots),
        "index": pad(np.asarray(numbers, whole), slots),
    }
