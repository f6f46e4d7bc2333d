"""Names and shapes of an ST-GCN of the released PyTorch code, and where each array is in our tree.

AimCLR, SkeletonCLR and CrosSCLR name them alike. torch has a graph's convolution as [parts * out, in, 1, 1]
and that over time as [out, in, taps, 1]; here they are [parts, in, out] and [taps, in, out].
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

PARTS = 3
NUM_BLOCKS = 10
Arrays = Mapping[str, np.ndarray]


class Form(NamedTuple):
    """How an array of torch's becomes ours, and back."""

    read: Callable[[np.ndarray], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]


SAME = Form(lambda a: a, lambda a: a)
DENSE = Form(lambda a: a.T, lambda a: a.T)
POINTWISE = Form(lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])
TIME = Form(lambda a: a[..., 0].transpose(2, 1, 0), lambda a: a.transpose(2, 1, 0)[..., None])
GRAPH = Form(
    lambda a: a.reshape(PARTS, -1, a.shape[1]).transpose(0, 2, 1),
    lambda a: a.transpose(0, 2, 1).reshape(-1, a.shape[1])[:, :, None, None],
)
GRAPH_BIAS = Form(lambda a: a.reshape(PARTS, -1), lambda a: a.reshape(-1))


class Place(NamedTuple):
    """An array of one encoder: its name in torch, its path in our tree, its form."""

    name: str
    path: tuple[str, ...]
    form: Form = SAME


def list_norms() -> dict[str, tuple[str, ...]]:
    """Name in torch -> path in our tree of every batch norm; of skips those that there may be."""
    found: dict[str, tuple[str, ...]] = {"data_bn": ("input_norm",)}
    for i in range(NUM_BLOCKS):
        names = {"tcn.0": "graph_norm", "tcn.3": "time_norm", "residual.1": "skip_norm"}
        for theirs, ours in names.items():
            found[f"st_gcn_networks.{i}.{theirs}"] = (f"block{i}", ours)
    return found


def list_parameters() -> list[Place]:
    """The parameters of one encoder with its head; of skips those that there may be."""
    places = []
    for name, path in list_norms().items():
        places += [
            Place(f"{name}.weight", (*path, "scale")),
            Place(f"{name}.bias", (*path, "bias")),
        ]
    for i in range(NUM_BLOCKS):
        block, net = f"block{i}", f"st_gcn_networks.{i}"
        places += [
            Place(f"edge_importance.{i}", (block, "edges")),
            Place(f"{net}.gcn.conv.weight", (block, "w_graph"), GRAPH),
            Place(f"{net}.gcn.conv.bias", (block, "b_graph"), GRAPH_BIAS),
            Place(f"{net}.tcn.2.weight", (block, "w_time"), TIME),
            Place(f"{net}.tcn.2.bias", (block, "b_time")),
            Place(f"{net}.residual.0.weight", (block, "w_skip"), POINTWISE),
            Place(f"{net}.residual.0.bias", (block, "b_skip")),
        ]
    for theirs, ours in (("fc.0", "hidden"), ("fc.2", "out")):
        places.append(Place(f"{theirs}.weight", ("head", ours, "kernel"), DENSE))
        places.append(Place(f"{theirs}.bias", ("head", ours, "bias")))
    return places


def list_statistics() -> list[Place]:
    """The running statistics of one encoder."""
    return [
        Place(f"{name}.running_{kind}", (*path, kind))
        for name, path in list_norms().items()
        for kind in ("mean", "var")
    ]


def read_tree(arrays: Arrays, prefix: str, places: list[Place]) -> dict[str, Any]:
    """Our tree of the arrays that are there, of one encoder."""
    tree: dict[str, Any] = {}
    for place in places:
        if prefix + place.name in arrays:
            node = tree
            for part in place.path[:-1]:
                node = node.setdefault(part, {})
            node[place.path[-1]] = np.ascontiguousarray(
                place.form.read(arrays[prefix + place.name])
            )
    return tree


def write_tree(tree: Any, prefix: str, places: list[Place]) -> dict[str, np.ndarray]:
    """The inverse of `read_tree`."""
    arrays = {}
    for place in places:
        leaf = tree
        for part in place.path:
            leaf = leaf.get(part) if leaf is not None else None
        if leaf is not None:
            arrays[prefix + place.name] = np.ascontiguousarray(place.form.write(np.asarray(leaf)))
    return arrays
