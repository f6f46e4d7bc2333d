"""The recorded steps of ISC and AS-CAL: torch's arrays as our trees, and back."""

import jax.numpy as jnp
import numpy as np
from _released import NUM_LAYERS

from halp_jax.methods import torch_names
from halp_jax.methods.torch_names import DENSE, Place, read_tree, write_tree
from halp_jax.methods.torch_stgcn import POINTWISE, TIME

PARTS = 3
HEAD = [
    Place(f"{theirs}.{kind}", ("head", ours, name), form)
    for theirs, ours in (("fc.0", "hidden"), ("fc.2", "out"))
    for kind, name, form in (("weight", "kernel", DENSE), ("bias", "bias", DENSE))
]
GRU = [
    *HEAD,
    *(
        Place(f"encoder.gru.{theirs}_l{i}{end}", (f"layer{i}", ours, str(j)), DENSE)
        for i in range(NUM_LAYERS)
        for theirs, ours in torch_names.GRU.items()
        for j, end in enumerate(("", "_reverse"))
    ),
]  # fmt: skip
LSTM = [
    Place(f"bi_lstm.{theirs}_l0", (ours,), DENSE)
    for theirs, ours in torch_names.GRU.items()
]  # fmt: skip
NORMS = {"data_bn": ("input_norm",)}
for _i in range(10):
    for _theirs, _ours in (
        ("gcn1.bn", "graph_norm"), ("gcn1.down.1", "inner_norm"), ("tcn1.bn", "time_norm"),
        ("residual.bn", "skip_norm"),
    ):  # fmt: skip
        NORMS[f"l{_i + 1}.{_theirs}"] = (f"block{_i}", _ours)
AGCN = [
    *HEAD,
    *(
        Place(f"{name}.{theirs}", (*path, ours))
        for name, path in NORMS.items()
        for theirs, ours in (("weight", "scale"), ("bias", "bias"))
    ),
]
for _i in range(10):
    _block, _net = f"block{_i}", f"l{_i + 1}"
    AGCN += [
        Place(f"{_net}.gcn1.PA", (_block, "edges")),
        Place(f"{_net}.gcn1.down.0.weight", (_block, "w_inner"), POINTWISE),
        Place(f"{_net}.gcn1.down.0.bias", (_block, "b_inner")),
        Place(f"{_net}.tcn1.conv.weight", (_block, "w_time"), TIME),
        Place(f"{_net}.tcn1.conv.bias", (_block, "b_time")),
        Place(f"{_net}.residual.conv.weight", (_block, "w_skip"), POINTWISE),
        Place(f"{_net}.residual.conv.bias", (_block, "b_skip")),
    ]
    for _part in range(PARTS):
        for _theirs, _path in (
            ("a", ("match", "0")), ("b", ("match", "1")), ("d", ("graph",)),
        ):  # fmt: skip
            _kind, *_rest = _path
            _name = f"{_net}.gcn1.conv_{_theirs}.{_part}"
            _where = tuple(f"{n}" for n in (*_rest, _part))
            AGCN += [
                Place(f"{_name}.weight", (_block, f"w_{_kind}", *_where), POINTWISE),
                Place(f"{_name}.bias", (_block, f"b_{_kind}", *_where)),
            ]
STATISTICS = [
    Place(f"{name}.running_{kind}", (*path, kind))
    for name, path in NORMS.items()
    for kind in ("mean", "var")
]


def read(arrays, prefix, places):
    """Our tree of the arrays under `prefix`: what torch has apart in lists is stacked."""
    return _stack(read_tree(arrays, prefix, places))


def write(tree, prefix, places):
    """The inverse of `read`."""
    return write_tree(_split(tree, {place.path for place in places}, ()), prefix, places)


def _stack(node):
    if not isinstance(node, dict):
        return jnp.asarray(node)
    if node and all(name.isdigit() for name in node):
        return jnp.stack([_stack(node[str(i)]) for i in range(len(node))])
    return {name: _stack(child) for name, child in node.items()}


def _split(node, paths, before):
    if isinstance(node, dict):
        return {name: _split(child, paths, (*before, name)) for name, child in node.items()}
    if before in paths:
        return np.asarray(node)
    return {str(i): _split(leaf, paths, (*before, str(i))) for i, leaf in enumerate(node)}
