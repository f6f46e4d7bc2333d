"""Names and shapes of the released PyTorch models, and where each array is in our tree.

One stream: `encoder_q.*`, `encoder_k.*`, `queue`, `queue_ptr` and, of HaLP, `prototypes`. Three:
the same again with the endings `_motion` and `_bone`, and `prototypes_j`, `_m`, `_b`. A matrix of
torch is the transpose of ours, and the two GRU streams of a layer are one array here.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from halp_jax.core.queue import MANY, MemoryQueue
from halp_jax.errors import UserError
from halp_jax.skeletons.augment import STREAMS

Arrays = Mapping[str, np.ndarray]

ENDINGS = dict(zip(STREAMS, ("", "_motion", "_bone"), strict=True))  # of three streams' names
TRACKED = "input_norm.num_batches_tracked"  # torch counts the training steps in its batch norm
GRU = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}


class Form(NamedTuple):
    """How an array of torch's becomes ours, and back."""

    read: Callable[[np.ndarray], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]


SAME = Form(lambda a: a, lambda a: a)
DENSE = Form(np.transpose, np.transpose)


class Place(NamedTuple):
    """Where an array of one encoder is: in torch, and in our tree (half `direction` of a leaf)."""

    name: str
    path: tuple[str, ...]
    form: Form = SAME
    direction: int | None = None


class Sizes(NamedTuple):
    """What the shapes of a state dict tell. num_prototypes is 0 where the model has none."""

    endings: tuple[str, ...]  # one a stream: ("",) or some of ENDINGS
    inputs: int
    width: int
    num_layers: int
    dim: int
    queue_size: int
    num_prototypes: int


STATISTICS = (
    Place("input_norm.running_mean", ("input_norm", "mean")),
    Place("input_norm.running_var", ("input_norm", "var")),
)


HEAD = [
    place
    for theirs, ours in (("fc.0", "hidden"), ("fc.2", "out"))
    for place in (
        Place(f"{theirs}.weight", ("head", ours, "kernel"), DENSE),
        Place(f"{theirs}.bias", ("head", ours, "bias")),
    )
]


def list_parameters(num_layers: int) -> list[Place]:
    """The parameters of one encoder, in torch's order."""
    places = [
        Place(f"encoder.gru.{theirs}_l{i}{end}", (f"layer{i}", ours), DENSE, direction)
        for i in range(num_layers)
        for direction, end in enumerate(("", "_reverse"))
        for theirs, ours in GRU.items()
    ]
    places += HEAD
    places.append(Place("input_norm.weight", ("input_norm", "scale")))
    places.append(Place("input_norm.bias", ("input_norm", "bias")))
    return places


def strip_prefix(arrays: Arrays) -> dict[str, np.ndarray]:
    """The names without the `module.` that DataParallel puts before them."""
    return {name.removeprefix("module."): array for name, array in arrays.items()}


def read_sizes(arrays: Arrays) -> Sizes:
    """The sizes of the model, after a check that all of its arrays are there and fit.

    Raises:
        UserError: naming the first array that is missing, misshapen or of something else.
    """
    if "encoder_q.fc.weight" in arrays:
        raise UserError(
            "encoder_q.fc.weight is a head of one layer, of a classifier or a run without --mlp: "
            "give the checkpoint of a pre-training with --mlp"
        )
    encoders = {name.split(".")[0] for name in arrays}
    endings = tuple(ending for ending in ENDINGS.values() if f"encoder_q{ending}" in encoders)
    endings = endings if len(endings) > 1 else ("",)
    gru = f"encoder_q{endings[0]}.encoder.gru."
    inputs = _shape(arrays, f"{gru}weight_ih_l0", 2)[1]
    width = _shape(arrays, f"{gru}weight_hh_l0", 2)[1]
    numbers = re.findall(
        rf"^{re.escape(gru)}\w+_l(\d+)(?:_reverse)?$", "\n".join(arrays), re.MULTILINE
    )
    num_layers = 1 + max(map(int, numbers))
    dim, queue_size = _shape(arrays, f"queue{endings[0]}", 2)
    prototypes = [name for name in prototype_names(endings) if name in arrays]
    num_prototypes = _shape(arrays, prototypes[0], 2)[0] if prototypes else 0
    sizes = Sizes(endings, inputs, width, num_layers, dim, queue_size, num_prototypes)
    wanted = list_shapes(sizes)
    for name, shape in wanted.items():
        if _shape(arrays, name, len(shape)) != shape:
            found = list(arrays[name].shape)
            raise UserError(f"{name} is {found}, but the rest of the model needs {list(shape)}")
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"{name} holds numbers that are NaN or infinite")
    for name in arrays:
        if name not in wanted:
            raise UserError(f"{name} is no part of a HaLP, CMD or baseline model")
    for ending in endings:
        if not 0 <= arrays[f"queue_ptr{ending}"][0] < queue_size:
            raise UserError(f"queue_ptr{ending} is not a place in the queue of {queue_size}")
    return sizes


def list_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Name -> shape of everything in the state dict, in the released models' order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for ending in sizes.endings:
        shapes[f"queue{ending}"] = (sizes.dim, sizes.queue_size)
        shapes[f"queue_ptr{ending}"] = (1,)
    if sizes.num_prototypes:
        for name in prototype_names(sizes.endings):
            shapes[name] = (sizes.num_prototypes, sizes.dim)
    gates, both = 3 * sizes.width, 2 * sizes.width
    known = {
        "weight_hh": (gates, sizes.width), "bias_ih": (gates,), "bias_hh": (gates,),
        "fc.0.weight": (both, both), "fc.0.bias": (both,),
        "fc.2.weight": (sizes.dim, both), "fc.2.bias": (sizes.dim,),
    }  # fmt: skip
    for prefix in (f"encoder_{which}{end}." for end in sizes.endings for which in "qk"):
        for place in list_parameters(sizes.num_layers) + list(STATISTICS):
            kind = place.name.removeprefix("encoder.gru.").split("_l")[0]
            shape = known.get(kind, (sizes.inputs,))
            if kind == "weight_ih":
                shape = (gates, sizes.inputs if place.path[0] == "layer0" else both)
            shapes[prefix + place.name] = shape
        shapes[prefix + TRACKED] = ()
    return shapes


def list_parameter_names(names: Sequence[str]) -> list[str]:
    """The names of a state dict that are parameters, in the order in which an optimiser has them."""
    ends = tuple(place.name for place in STATISTICS) + (TRACKED,)
    return [name for name in names if name.startswith("encoder_") and not name.endswith(ends)]


def find_endings(streams: Sequence[str]) -> tuple[str, ...]:
    """The endings of a file's names, one a stream."""
    return tuple(ENDINGS[name] for name in streams) if len(streams) > 1 else ("",)


def read_tree(arrays: Arrays, prefix: str, places: Sequence[Place]) -> dict[str, Any]:
    """Our tree of the arrays that are there, of one encoder."""
    tree: dict[str, Any] = {}
    for place in places:
        if prefix + place.name in arrays:
            node, (*above, last) = tree, place.path
            for part in above:
                node = node.setdefault(part, {})
            array = np.ascontiguousarray(place.form.read(arrays[prefix + place.name]))
            half = place.direction is not None
            node[last] = np.stack([*node.get(last, ()), array]) if half else array
    return tree


def write_tree(tree: Any, prefix: str, places: Sequence[Place]) -> dict[str, np.ndarray]:
    """The inverse of `read_tree`."""
    arrays = {}
    for place in places:
        leaf = find_leaf(tree, place.path)
        if leaf is not None:
            leaf = np.asarray(leaf if place.direction is None else leaf[place.direction])
            arrays[prefix + place.name] = np.ascontiguousarray(place.form.write(leaf))
    return arrays


def find_leaf(tree: Any, path: Sequence[str]) -> Any:
    """What is at this path, or None."""
    for part in path:
        tree = tree.get(part) if tree is not None else None
    return tree


def gather(arrays: Arrays, prefixes: Sequence[str], places: Sequence[Place]) -> dict[str, Any]:
    """Our tree of these encoders, a stream each: leaves [streams, (direction,) ...]."""
    trees = [read_tree(arrays, prefix, places) for prefix in prefixes]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def scatter(tree: Any, prefixes: Sequence[str], places: Sequence[Place]) -> dict[str, np.ndarray]:
    """The inverse of `gather`."""
    arrays = {}
    for i, prefix in enumerate(prefixes):
        arrays |= write_tree(jax.tree.map(lambda leaf, i=i: leaf[i], tree), prefix, places)
    return arrays


def read_queue(arrays: Arrays, endings: Sequence[str], pushed: int) -> MemoryQueue:
    """The queues; `pushed`: keys that each has seen, about."""
    heads = np.array([arrays[f"queue_ptr{ending}"][0] for ending in endings], np.int32)
    keys = np.stack([arrays[f"queue{ending}"].T for ending in endings])
    return MemoryQueue(keys, heads, np.maximum(heads, min(pushed, MANY)).astype(np.int32))


def write_queue(queue: MemoryQueue, endings: Sequence[str]) -> dict[str, np.ndarray]:
    """The inverse of `read_queue`, without what was pushed."""
    arrays = {}
    for ending, keys, head in zip(endings, queue.keys, queue.head, strict=True):
        arrays[f"queue{ending}"] = np.ascontiguousarray(keys.T)
        arrays[f"queue_ptr{ending}"] = np.array([head], np.int64)
    return arrays


def fill_optimizer(
    optimizer: optax.GradientTransformation, params: Any, step: int, trace: Any = None
) -> Any:
    """The state of SGD after so many steps, its momentum `trace`, or 0."""

    def fill(part):
        if isinstance(part, optax.TraceState):
            return part._replace(trace=trace) if trace else part
        return part._replace(count=np.int32(step)) if "count" in part._fields else part

    return tuple(fill(part) for part in optimizer.init(params))


def _shape(arrays: Arrays, name: str, num_axes: int) -> tuple[int, ...]:
    if name not in arrays:
        raise UserError(f"there is no {name}: it is no checkpoint of HaLP, CMD or the baseline")
    shape = arrays[name].shape
    if len(shape) != num_axes:
        raise UserError(f"{name} is {list(shape)}; it must have {num_axes} axes")
    return shape


def prototype_names(endings: Sequence[str]) -> list[str]:
    if len(endings) == 1:
        return ["prototypes"]
    letters = {ending: stream[0] for stream, ending in ENDINGS.items()}
    return [f"prototypes_{letters[ending]}" for ending in endings]
