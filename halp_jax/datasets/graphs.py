"""Graphs with labelled nodes: what GraphCL learns from, in memory and as one file.

    dataset = from_arrays(edges, labels, node_labels=atoms)     # or from_networkx(graphs, labels)
    save(dataset, "data/mine")                                  # config.data.dir

The nodes of all graphs stand one after the other, and so do the edges. An edge goes one way; an
undirected one is there twice. `tu` reads the files of the TU collection, `graph_batches` makes
batches.
"""

import dataclasses
import functools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
from jaxtyping import Float, Int

from halp_jax.datasets import graph_batches
from halp_jax.datasets.arrays import check_labels, check_names, number_splits
from halp_jax.datasets.atomic_write import GRAPHS as FILE
from halp_jax.datasets.atomic_write import claim_folder
from halp_jax.datasets.labels import UNLABELLED, name_classes
from halp_jax.datasets.prepared import Dataset, Misfit, read_fields
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import restore_layout

FORMAT, FORMAT_VERSION = "halp_jax graphs", 1
MAX_FEATURES = 10_000  # of a node
ARRAYS = ("node_labels", "attributes", "edges", "edge_labels")


@dataclasses.dataclass(frozen=True)
class GraphLayout:
    """What an encoder has to know of the nodes: one-hot labels, then attributes."""

    labels: tuple[int, ...]  # values of each label of a node, of which it mostly has one
    attributes: int = 0

    @property
    def num_features(self) -> int:
        return sum(self.labels) + self.attributes

    @property
    def name(self) -> str:
        return f"graphs of {self.num_features} features a node"

    def describe(self) -> dict[str, Any]:
        """As JSON holds it; `restore` is the way back."""
        return {"graphs": {"labels": list(self.labels), "attributes": self.attributes}}


def restore(described: Any) -> Any:
    """The GraphLayout, or the Layout of a skeleton, that a data set or a run has described."""
    if isinstance(described, Mapping) and "graphs" in described:
        found = described["graphs"]
        return GraphLayout(tuple(map(int, found["labels"])), int(found["attributes"]))
    return restore_layout(described)


@dataclasses.dataclass(frozen=True, eq=False)
class GraphDataset(Dataset):
    """Graphs and their classes. `lengths` are nodes of each graph.

    Attributes:
        node_labels: values from 0, a column for each entry of `layout.labels`.
        attributes: [nodes, 0] where nodes have none.
        edges: (source, target) as node numbers of the whole data set, sorted, each once, no loops.
        edge_labels: kept for the user; GIN does not look at them.
    """

    layout: GraphLayout
    node_labels: Int[np.ndarray, "nodes columns"]
    attributes: Float[np.ndarray, "nodes attributes"]
    edges: Int[np.ndarray, "edges 2"]
    edge_labels: Int[np.ndarray, "edges edge_columns"]

    unit = "graphs"

    @functools.cached_property
    def first_node(self) -> Int[np.ndarray, " graphs_and_one"]:
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    @functools.cached_property
    def first_edge(self) -> Int[np.ndarray, " graphs_and_one"]:
        return np.searchsorted(self.edges[:, 0], self.first_node)

    def edges_of(self, number: int) -> Int[np.ndarray, "edges 2"]:
        """The edges of one graph, its nodes numbered from 0."""
        begin, end = self.first_edge[number : number + 2]
        return self.edges[begin:end] - self.first_node[number]

    def describe(self) -> dict[str, Any]:
        return self.layout.describe()

    def identity(self, normalize: str | None = None) -> tuple[Any, ...]:
        """`normalize` is of clips: graphs are taken as they are."""
        arrays = (getattr(self, name) for name in ARRAYS)
        return self.layout, [zlib.crc32(np.ascontiguousarray(a).data) for a in arrays]

    def tell_cut(self, indices: np.ndarray, max_frames: int | None, part: str) -> str:
        return ""  # a graph is never cut

    def training_batches(
        self, config: ml_collections.ConfigDict, indices: np.ndarray, **options: Any
    ) -> Iterator[dict[str, np.ndarray]]:
        """See `graph_batches.training_batches`."""
        return graph_batches.training_batches(
            self, indices, batch_size=config.train.batch_size, seed=config.seed, **options
        )


def from_arrays(
    edges: Sequence[Any],
    labels: Any = None,
    *,
    node_labels: Sequence[Any] | None = None,
    attributes: Sequence[Any] | None = None,
    num_nodes: Sequence[int] | None = None,
    directed: bool = False,
    class_names: Sequence[str] | None = None,
    splits: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
) -> GraphDataset:
    """A data set of one's own graphs.

    Args:
        edges: for each graph pairs [edges, 2] of its nodes, which count from 0.
        labels: a class from 0 for each graph, -1 where it is not known; None for none at all.
        node_labels: for each graph a whole number from 0 a node; the encoder sees it one-hot. Without
            labels and attributes all nodes look alike.
        attributes: for each graph numbers [nodes, attributes].
        num_nodes: for each graph, where neither tells: by default the largest node in its edges is
            the last.
        directed: take the edges as they are; else each goes both ways, given so or not.
        class_names, splits, names: as `arrays.from_arrays` has them.

    Raises:
        UserError: naming the first graph, label, name or split that cannot be used, and why.
    """
    count = len(edges)
    if not count:
        raise UserError("there are no graphs; give the edges of at least one")
    names = [f"graph {i}" for i in range(count)] if names is None else list(names)
    check_names(names, count)
    pairs = _read_each(names, "edges", edges, "pairs of nodes", 2)
    sizes = _count_nodes(
        pairs, names, {"node_labels": node_labels, "attributes": attributes, "num_nodes": num_nodes}
    )
    first = np.cumsum(sizes) - sizes
    every = np.concatenate([e + start for e, start in zip(pairs, first, strict=True)])
    if not directed:
        every = np.concatenate([every, every[:, ::-1]])
    total = int(sizes.sum())
    kinds, values = np.zeros((total, 1), np.int64), np.zeros((total, 0), np.float32)
    if node_labels is not None:
        each = _read_each(names, "node_labels", node_labels, "a whole number for each node", 1)
        kinds = np.concatenate(each).astype(np.int64)
    if attributes is not None:
        each = _read_each(names, "attributes", attributes, "a row of numbers for each node")
        if len({rows.shape[1] for rows in each}) > 1:
            raise UserError("attributes: give all nodes equally many")
        values = np.concatenate(each).astype(np.float32)
    if not len(kinds) == len(values) == total or kinds.min() < 0:
        raise UserError("give node_labels from 0, or attributes, for every node of every graph")
    classes = check_labels(np.full(count, UNLABELLED) if labels is None else labels, count)
    if class_names is None:
        class_names = name_classes(int(classes.max()) + 1)
    return build(
        "arrays", sizes, kinds, values, *clean_edges(every, total),
        classes=classes, class_names=class_names, splits=splits, names=names,
    )  # fmt: skip


def _read_each(
    names: Sequence[str], what: str, given: Sequence[Any], wanted: str, columns: int = 0
) -> list[np.ndarray]:
    """A table [rows, columns] of each graph; whole numbers where `columns` says how many."""
    found = []
    for name, rows in zip(names, given, strict=False):
        try:
            table = np.asarray(rows)
        except ValueError:  # rows of unlike lengths
            table = np.zeros(0, object)
        if not table.size and table.dtype != object:
            table = np.zeros((0, columns or 1), int)
        if table.ndim == 1 and columns == 1:
            table = table[:, None]
        numbers = table.dtype.kind in ("iu" if columns else "iuf")
        if not (numbers and table.ndim == 2 and columns in (0, table.shape[1])):
            raise UserError(f"graph {name}: {what} must be {wanted}")
        if not np.isfinite(table).all():
            raise UserError(f"graph {name}: {what} are not all finite")
        found.append(table)
    return found


def _count_nodes(
    pairs: Sequence[np.ndarray], names: Sequence[str], given: Mapping[str, Any]
) -> Int[np.ndarray, " graphs"]:
    """The nodes of each graph, as the first of `given` that is there tells, or else its edges."""
    for what, found in given.items():
        if found is not None and len(found) != len(pairs):
            raise UserError(f"there are {len(pairs)} graphs and {what} of {len(found)}; give all")
    told = next((found for found in given.values() if found is not None), None)
    if told is None:
        told = [int(e.max()) + 1 if len(e) else 1 for e in pairs]
    sizes = np.array([len(each) if hasattr(each, "__len__") else int(each) for each in told])
    for name, e, size in zip(names, pairs, sizes, strict=True):
        if size < 1 or (len(e) and not 0 <= e.min() <= e.max() < size):
            raise UserError(
                f"graph {name}: give its edges as pairs of nodes from 0 to {size - 1}, of which it "
                "has as many as node_labels, attributes or num_nodes say"
            )
    return sizes


def from_networkx(
    graphs: Sequence[Any], labels: Any = None, *, node_label: str = "", **options: Any
) -> GraphDataset:
    """A data set of networkx graphs; `node_label` names the attribute that is a node's label."""
    edges, kinds = [], []
    for graph in graphs:
        place = {node: i for i, node in enumerate(graph.nodes)}
        pairs = [(place[a], place[b]) for a, b in graph.edges()]
        edges.append(pairs if graph.is_directed() else pairs + [(b, a) for a, b in pairs])
        kinds.append([graph.nodes[node][node_label] if node_label else 0 for node in graph.nodes])
    number = {kind: i for i, kind in enumerate(sorted({kind for own in kinds for kind in own}))}
    kinds = [[number[kind] for kind in own] for own in kinds]
    return from_arrays(edges, labels, node_labels=kinds, directed=True, **options)


def clean_edges(
    edges: Int[np.ndarray, "edges 2"],
    num_nodes: int,
    labels: Int[np.ndarray, "edges columns"] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted by (source, target), each once (with its first label), without loops."""
    codes = edges[:, 0].astype(np.int64) * num_nodes + edges[:, 1]
    codes, chosen = np.unique(codes, return_index=True)
    chosen = chosen[codes // num_nodes != codes % num_nodes]
    if labels is None:
        labels = np.zeros((len(edges), 0), np.int64)
    return edges[chosen].astype(np.int64), labels[chosen]


def build(
    name: str,
    sizes: Int[np.ndarray, " graphs"],
    node_labels: np.ndarray,
    attributes: np.ndarray,
    edges: np.ndarray,
    edge_labels: np.ndarray,
    *,
    classes: np.ndarray,
    class_names: Sequence[str],
    splits: Mapping[str, Any] | None = None,
    names: Sequence[str] = (),
    path: Path = Path("graphs in memory"),
    notes: Mapping[str, Any] | None = None,
) -> GraphDataset:
    """The data set of arrays that are in order; see GraphDataset."""
    layout = GraphLayout(
        tuple(int(column.max()) + 1 for column in node_labels.T), attributes.shape[1]
    )
    if layout.num_features > MAX_FEATURES:
        raise UserError(
            f"{path}: nodes would have {layout.num_features} features, one for each number up to the largest "
            "label: number the labels anew, without gaps"
        )
    metadata = {
        "name": name, "layout": layout.describe(), "class_names": list(map(str, class_names)),
        "notes": dict(notes or {}), "damaged": [], "absent_from_splits": {},
        "splits": number_splits(splits, len(sizes)),
        "names": list(names) or [f"graph {i}" for i in range(len(sizes))],
        "labels": classes.tolist(), "lengths": [int(size) for size in sizes],
    }  # fmt: skip
    fields = read_fields(path, metadata, len(sizes), restore)
    return GraphDataset(
        **fields, node_labels=node_labels.astype(np.int32), attributes=attributes,
        edges=edges, edge_labels=edge_labels,
    )  # fmt: skip


def save(dataset: GraphDataset, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Writes the data set into a folder, whole or not at all -> the folder, for config.data.dir."""
    metadata = dataset.metadata | {"format": FORMAT, "format_version": FORMAT_VERSION}
    text = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    path, arrays = Path(folder).expanduser(), {name: getattr(dataset, name) for name in ARRAYS}
    with claim_folder(path, overwrite) as unfinished:
        np.savez_compressed(unfinished / FILE, metadata=text, **arrays)
    return path


def read(path: Path, metadata: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> GraphDataset:
    """What `save` wrote, of its opened file. Raises Misfit where the arrays are not those named."""
    fields = read_fields(path, metadata, len(metadata["names"]), restore)
    found = {name: arrays[name] for name in ARRAYS}
    nodes, edges = int(fields["lengths"].sum()), found["edges"]
    if not all(len(found[name]) == nodes for name in ("node_labels", "attributes")):
        raise Misfit(f"its arrays are not of {nodes} nodes")
    if len(edges) != len(found["edge_labels"]) or (
        len(edges) and not 0 <= edges.min() <= edges.max() < nodes
    ):
        raise Misfit("its edges are beyond its nodes")
    return GraphDataset(**fields, **found)
