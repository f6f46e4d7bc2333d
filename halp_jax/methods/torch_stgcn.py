"""State dicts of AimCLR, SkeletonCLR and CrosSCLR as ours and back; every number goes through unchanged.

One stream: `encoder_q.*`, `encoder_k.*`, `queue`, `queue_ptr`; more with the endings `_motion` and `_bone`.
In CrosSCLR the heads of those two are `fc.0`, a layer of their own, and `fc.2`, the joint stream's whole head.
The optimiser is not in such files, so its momentum starts at 0. torch has a graph's convolution as
[parts * out, in, 1, 1] and that over time as [out, in, taps, 1]; here they are [parts, in, out] and
[taps, in, out].
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from halp_jax import methods
from halp_jax.encoders.stgcn import make_adjacency
from halp_jax.errors import UserError
from halp_jax.methods import torch_names
from halp_jax.methods.base import Spec, TrainState
from halp_jax.methods.torch_names import (
    DENSE,
    ENDINGS,
    HEAD,
    Arrays,
    Form,
    Place,
    read_tree,
    write_tree,
)
from halp_jax.skeletons.layout import Layout

PARTS, NUM_BLOCKS = 3, 10
TRACKED = "num_batches_tracked"  # torch counts the batches that each batch norm has seen
POINTWISE = Form(lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])
TIME = Form(lambda a: a[..., 0].transpose(2, 1, 0), lambda a: a.transpose(2, 1, 0)[..., None])
GRAPH = Form(
    lambda a: a.reshape(PARTS, -1, a.shape[1]).transpose(0, 2, 1),
    lambda a: a.transpose(0, 2, 1).reshape(-1, a.shape[1])[:, :, None, None],
)
GRAPH_BIAS = Form(lambda a: a.reshape(PARTS, -1), lambda a: a.reshape(-1))


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
    return places + HEAD


def list_statistics() -> list[Place]:
    """The running statistics of one encoder."""
    return [
        Place(f"{name}.running_{kind}", (*path, kind))
        for name, path in list_norms().items()
        for kind in ("mean", "var")
    ]


PARAMETERS, STATISTICS = list_parameters(), list_statistics()
# CrosSCLR's: the layer that a stream has of its own, and the joint stream's head behind it.
OWN = [
    Place("fc.0.weight", ("own", "kernel"), DENSE), Place("fc.0.bias", ("own", "bias")),
    *(Place(f"fc.2.{place.name.removeprefix('fc.')}", place.path, place.form) for place in HEAD),
]  # fmt: skip


class Sizes(NamedTuple):
    """What the shapes of a state dict tell."""

    streams: tuple[str, ...]
    joints: int
    width: int
    last_width: int
    dim: int
    queue_size: int
    shared: bool  # the heads of motion and bone hold that of joint


def is_stgcn(arrays: Arrays) -> bool:
    return "encoder_q.data_bn.weight" in arrays


def read_sizes(arrays: Arrays) -> Sizes:
    """Raises UserError where an array that tells a size is missing."""
    names = ("encoder_q.edge_importance.0", "encoder_q.fc.2.weight", "queue")
    names += ("encoder_q.st_gcn_networks.0.tcn.2.bias",)
    for name in names:
        if name not in arrays:
            raise UserError(f"there is no {name}: it is no checkpoint of AimCLR or CrosSCLR")
    streams = tuple(s for s, end in ENDINGS.items() if f"encoder_q{end}.data_bn.weight" in arrays)
    ends = torch_names.find_endings(streams)
    for name in (f"queue{kind}{end}" for end in ends for kind in ("", "_ptr")):
        if name not in arrays:
            raise UserError(f"there is no {name}: save the whole checkpoint again")
    dim, last_width = arrays[names[1]].shape
    return Sizes(
        streams, arrays[names[0]].shape[-1], len(arrays[names[3]]), last_width, dim,
        arrays["queue"].shape[1], any(f"encoder_q{ENDINGS[s]}.fc.2.0.weight" in arrays for s in streams),
    )  # fmt: skip


def fit_config(config: ml_collections.ConfigDict, sizes: Sizes, stream: str | None) -> None:
    """Sets what the shapes prescribe. `stream`: of a file with one encoder, joint if None."""
    config.streams = sizes.streams if len(sizes.streams) > 1 else (stream or "joint",)
    config.encoder.name, config.encoder.dim = "stgcn", sizes.dim
    config.encoder.stgcn.update(width=sizes.width, last_width=sizes.last_width, graph="released")
    config.moco.queue_size = sizes.queue_size
    config.halp.queue_entries = min(config.halp.queue_entries, sizes.queue_size)
    if config.method == "crossclr":
        config.crossclr.shared_heads = sizes.shared


def to_state(arrays: Arrays, config: ml_collections.ConfigDict, layout: Layout) -> TrainState:
    """The state of a run that has come as far as this model.

    Raises:
        UserError: naming an array that is missing or misshapen.
    """
    template = jax.eval_shape(lambda: methods.create_state(config, Spec(layout)))
    names = tuple(config.streams)
    ends = torch_names.find_endings(names)
    step = int(arrays.get(f"encoder_k.data_bn.{TRACKED}", 0))  # early torch did not count

    def read(which, places, wanted):
        trees = []
        for end in ends:
            prefix = f"encoder_{which}{end}."
            own = _places(places, end, arrays)
            _check(arrays, prefix, own, wanted)
            trees.append(read_tree(arrays, prefix, own))
        if "own" in wanted:  # joint's is looked at by nobody
            trees = [tree | {"own": tree.get("own", tree["head"]["hidden"])} for tree in trees]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

    params = read("q", PARAMETERS, template.params)
    extra = {
        "batch_stats": read("q", STATISTICS, template.extra["batch_stats"]),
        "key_params": read("k", PARAMETERS, template.params),
        "key_batch_stats": read("k", STATISTICS, template.extra["batch_stats"]),
        "queue": torch_names.read_queue(arrays, ends, step * config.train.batch_size),
        "prototypes": np.zeros(template.extra["prototypes"].shape, np.float32),
    }  # fmt: skip
    optimizer, _ = methods.find_method(config).make_optimizer(config, 1)
    opt_state = torch_names.fill_optimizer(optimizer, params, step)
    return jax.tree.map(jnp.array, TrainState(np.int32(step), params, opt_state, extra))


def from_state(
    state: TrainState, config: ml_collections.ConfigDict, layout: Layout
) -> dict[str, np.ndarray]:
    """The state dict, in the names of the released code."""
    state, names = jax.tree.map(np.asarray, state), tuple(config.streams)
    extra, ends = state.extra, torch_names.find_endings(names)
    arrays = torch_names.write_queue(extra["queue"], ends)
    for i, (name, end) in enumerate(zip(names, ends, strict=True)):
        for which, params, statistics in (
            ("q", state.params, extra["batch_stats"]),
            ("k", extra["key_params"], extra["key_batch_stats"]),
        ):
            prefix = f"encoder_{which}{end}."
            tree, own = (jax.tree.map(lambda leaf, i=i: leaf[i], t) for t in (params, statistics))
            shared = "own" in tree and name != "joint"
            places = [p for p in PARAMETERS if p not in HEAD] + (OWN if shared else HEAD)
            arrays |= write_tree(tree, prefix, places)
            arrays |= write_tree(own, prefix, STATISTICS)
            twice = which == "q" and config.get("aimclr", {}).get("extreme_views", False)
            for norm in list_norms():
                if f"{prefix}{norm}.weight" in arrays:
                    count = np.array((1 + twice) * int(state.step), np.int64)
                    arrays[f"{prefix}{norm}.{TRACKED}"] = count
            arrays[f"{prefix}A"] = make_adjacency(layout.parents, config.encoder.stgcn.graph)
    return arrays


def _check(arrays: Arrays, prefix: str, places: list[Place], wanted: Any) -> None:
    """Raises UserError for the first array that our tree [streams, ...] has and the file has not."""
    for place in places:
        leaf = torch_names.find_leaf(wanted, place.path)
        if leaf is None:
            continue
        name, found = prefix + place.name, arrays.get(prefix + place.name)
        shape = place.form.write(np.empty(leaf.shape[1:])).shape
        if found is None or found.shape != shape or not np.isfinite(found).all():
            what = "is missing" if found is None else f"is {list(found.shape)} or not finite"
            raise UserError(f"{name} {what}; it must be {list(shape)}")


def _places(places: list[Place], end: str, arrays: Arrays) -> list[Place]:
    """Where the parameters of a stream are; a head that holds joint's is another."""
    if places is STATISTICS or f"encoder_q{end}.fc.2.0.weight" not in arrays:
        return places
    return [place for place in places if place not in HEAD] + OWN
