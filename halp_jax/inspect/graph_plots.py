"""Graphs as drawings: on given axes, or many on a page.

Nodes lie so that distances on the page are like numbers of edges between them: stress majorization
(Gansner, Koren and North, Graph Drawing 2004) from the two main directions of classical scaling. A node's
colour is its label.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.distance import cdist

from halp_jax.datasets.graphs import GraphDataset
from halp_jax.inspect import page

MAX_NODES = 100  # of more neither nodes nor edges could be told apart
_STEPS, _TRIES = 60, 6


def place_nodes(edges: Int[np.ndarray, "edges 2"], count: int) -> Float[np.ndarray, "count 2"]:
    """Where to draw each node, an edge being about 1 long; the same every time."""
    linked = np.zeros((count, count))
    linked[tuple(edges.T)] = 1
    hops = shortest_path(linked, directed=False, unweighted=True)  # edges between any two nodes
    # Between parts that no edge joins: one more than any path has.
    hops[np.isinf(hops)] = hops[np.isfinite(hops)].max() + 1
    centre = np.eye(count) - 1 / count
    sizes, directions = np.linalg.eigh(-0.5 * centre @ hops**2 @ centre)
    start = np.zeros((count, 2))
    found = (directions * np.sqrt(np.maximum(sizes, 0)))[:, ::-1][:, :2]
    start[:, : found.shape[1]] = found
    weights = 1 / np.maximum(hops, 1) ** 2 * (hops > 0)
    back = np.linalg.pinv(np.diag(weights.sum(1)) - weights)
    # The noise parts nodes that are alike to all others, and turns over what lies folded.
    noise = np.random.default_rng(0).normal(size=(_TRIES, count, 2))
    tried = []
    for share, each in zip(np.linspace(0.01, 1, _TRIES), noise, strict=True):
        places = start + share * each
        for _ in range(_STEPS):
            pull = weights * hops / np.maximum(cdist(places, places), 1e-6)
            places = back @ (pull.sum(1)[:, None] * places - pull @ places)
        tried.append(places)
    return min(tried, key=lambda x: np.sum(weights * (cdist(x, x) - hops) ** 2))


def add_graph(axes: Axes, dataset: GraphDataset, number: int) -> None:
    """One graph, filling the axes. Of more than MAX_NODES nodes there are words in its place."""
    count, edges = int(dataset.lengths[number]), dataset.edges_of(number)
    axes.set_axis_off()
    if count > MAX_NODES:
        axes.text(0.5, 0.5, f"{count} nodes", ha="center", va="center", transform=axes.transAxes)
        return
    places = place_nodes(edges, count)
    size = 5.0 * min(1.0, (20 / count) ** 0.5)
    axes.add_collection(LineCollection(places[edges], colors=[page.mute(0.45)], linewidths=1.0))
    first = dataset.first_node[number]
    labels = dataset.node_labels[first : first + count, 0]
    styles = page.style_classes(range(dataset.layout.labels[0]))
    for label in np.unique(labels):
        axes.plot(*places[labels == label].T, "o", ms=size, mew=0, color=styles[int(label)][0])
    low, high = places.min(0) - 0.6, places.max(0) + 0.6
    axes.update_datalim([low, high])
    axes.autoscale_view()
    axes.set_aspect("equal")


def plot_graphs(dataset: GraphDataset, numbers: Sequence[int], columns: int = 6) -> Figure:
    """These graphs, row by row, their classes above them."""
    columns = min(columns, len(numbers))
    rows = -(-len(numbers) // columns)
    figure = page.make_figure(1.7 * columns, 1.8 * rows)
    for place, number in enumerate(numbers):
        axes = figure.add_subplot(rows, columns, place + 1)
        add_graph(axes, dataset, int(number))
        label = int(dataset.labels[number])
        name = dataset.class_names[label] if label >= 0 else ""
        axes.set_title(page.shorten(name, 18), fontsize=9)
    return figure
