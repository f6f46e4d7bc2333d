"""Graphs -> batches of one size, so that a run compiles once.

A batch is S shards, one for each device, as the leading axis of every array. A shard holds G graphs,
their nodes one after the other (N of them) and their edges sorted by target (E); N and E are the
largest that any batch of the run needs. The last node and edge are spare: what is not there points to them.

    labels [S, N, columns], attributes [S, N, A], graph_of_node [S, N], place_in_graph [S, N]
    node_mask [S, N], looped [S, N]       looped: has a self loop in the released code
    senders, receivers [S, E], edge_mask [S, E]
    sources, targets [S, N, K]            tables of a node's neighbours, in and out, and of the numbers
    edges_in, edges_out [S, N, K]         of the edges between; late [S, L]: edges that fit in neither
    graph_mask, num_nodes, num_edges, label, index [S, G]
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from halp_jax.datasets.order import epoch_order

Batch = dict[str, np.ndarray]
# Summing over a table of neighbours takes a fraction of the time that adding edge by edge takes on a CPU, as
# long as the table is not mostly empty: an edge outside is taken to cost as much as so many places
# inside. From 2 to 48 no data set of the paper shows a difference.
LATE = 16
MAX_COLUMNS = 32


class Sizes(NamedTuple):
    """Of a shard, without what is spare."""

    nodes: int
    edges: int
    late: int  # edges outside the tables
    columns: int  # of the tables


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
    padding: float = 1.0,
) -> list[Batch]:
    """The graphs in this order, as batches of one size, `padding` times as large as need be."""
    groups = _group(numbers, batch_size, num_shards)
    sizes = find_sizes(dataset, numbers, batch_size, num_shards)
    sizes = Sizes(*(int(padding * size) for size in sizes[:3]), sizes.columns)
    slots = -(-batch_size // num_shards)
    batches = []
    for shards in groups:
        made = [_make_shard(dataset, group, slots, sizes) for group in shards]
        batches.append({name: np.stack([shard[name] for shard in made]) for name in made[0]})
    return batches


def find_sizes(
    dataset: Any, numbers: Int[np.ndarray, " chosen"], batch_size: int, num_shards: int = 1
) -> Sizes:
    """What the largest shard needs when the graphs come in this order."""
    counts = np.diff(dataset.first_edge)
    graph = np.repeat(np.arange(len(dataset)), counts)
    place = _place(*dataset.edges.T)
    wanted = np.bincount(place[np.isin(graph, numbers)], minlength=1)
    behind = np.sum(wanted) - np.concatenate([[0], np.cumsum(wanted)])[: MAX_COLUMNS + 1]
    num_nodes = int(dataset.lengths[numbers].sum())
    columns = int(np.argmin(num_nodes * np.arange(len(behind)) + LATE * behind))
    late = np.bincount(graph[place >= columns], minlength=len(dataset))
    shards = [shard for batch in _group(numbers, batch_size, num_shards) for shard in batch]
    each = dataset.lengths.astype(np.int64), counts, late
    return Sizes(*(max(int(count[shard].sum()) for shard in shards) for count in each), columns)


def _place(senders: np.ndarray, receivers: np.ndarray) -> np.ndarray:
    """The first column of both tables that an edge may stand in: its place at either end, the later one."""
    place = np.zeros(len(senders), np.int64)
    for owner, other in ((receivers, senders), (senders, receivers)):
        order = np.lexsort((other, owner))
        ends = owner[order]
        place[order] = np.maximum(place[order], np.arange(len(ends)) - np.searchsorted(ends, ends))
    return place


def _group(numbers: np.ndarray, batch_size: int, num_shards: int) -> list[list[np.ndarray]]:
    """For each batch the graphs of each shard, of which the last may have fewer, or none."""
    slots = -(-batch_size // num_shards)
    batches = [numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size)]
    return [[b[s * slots : (s + 1) * slots] for s in range(num_shards)] for b in batches]


def _ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """first[i], first[i] + 1 ... (counts[i] of them), one range after the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - ends + counts, counts)


def _make_shard(dataset: Any, numbers: np.ndarray, slots: int, sizes: Sizes) -> Batch:
    size, num_edges = sizes.nodes + 1, sizes.edges + 1
    spare, whole = size - 1, np.int32
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
    place = np.arange(len(rows)) - begin[graph]
    top = np.full(len(numbers), -1)
    np.maximum.at(top, graph[receivers], np.maximum(place[receivers], place[senders]))

    def pad(values: np.ndarray, length: int, fill: Any = 0) -> np.ndarray:
        padded = np.full((length, *values.shape[1:]), fill, values.dtype)
        padded[: len(values)] = values
        return padded

    early = _place(senders, receivers) < sizes.columns

    def tables(owners: np.ndarray, others: np.ndarray) -> list[np.ndarray]:
        """The others of each node, and the numbers of the edges to them."""
        order = np.flatnonzero(early)[np.argsort(owners[early], kind="stable")]
        owners = owners[order]
        column = np.arange(len(owners)) - np.searchsorted(owners, owners)
        found = [np.full((size, sizes.columns), fill, whole) for fill in (spare, num_edges - 1)]
        found[0][owners, column], found[1][owners, column] = others[order], order
        return found

    sources, edges_in = tables(receivers, senders)
    targets, edges_out = tables(senders, receivers)
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
        "sources": sources, "edges_in": edges_in,
        "targets": targets, "edges_out": edges_out,
        "late": pad(np.flatnonzero(~early).astype(whole), sizes.late, num_edges - 1),
        "graph_mask": pad(np.ones(len(numbers), bool), slots),
        "num_nodes": pad(counts.astype(whole), slots),
        "num_edges": pad(edge_counts.astype(whole), slots),
        "label": pad(dataset.labels[numbers].astype(whole), slots),
        "index": pad(np.asarray(numbers, whole), slots),
    }  # fmt: skip
