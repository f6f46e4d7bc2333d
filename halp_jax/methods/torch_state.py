"""State dicts of the released PyTorch models of HaLP, CMD and the MoCo baseline, as ours and back.

The names and shapes are those of `torch_names`. Arrays are numpy's, nothing is read from or written
to a disk, and every number goes through unchanged, both ways. Momentum of `torch.optim.SGD` is that
of our optimiser, number by number: both add the decay to the gradient before they trace it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from halp_jax.errors import UserError
from halp_jax.methods import moco, torch_names
from halp_jax.methods.base import TrainState
from halp_jax.methods.torch_names import Arrays, Sizes
from halp_jax.skeletons.layout import LAYOUTS, NTU25, Layout, restore_layout


def find_layout(inputs: int, name: str = "") -> Layout:
    """The skeleton an encoder of so many inputs a frame is for; 150 are ntu25's if none is named."""
    if not name and inputs != _num_inputs(NTU25):
        known = ", ".join(f"{key} has {_num_inputs(each)}" for key, each in LAYOUTS.items())
        raise UserError(
            f"the encoder takes {inputs} numbers a frame: name its skeleton by --layout ({known})"
        )
    layout = restore_layout(name) if name else NTU25
    if _num_inputs(layout) != inputs:
        raise UserError(
            f"layout {layout.name} has {_num_inputs(layout)} numbers a frame, but the encoder "
            f"takes {inputs}: name another one by --layout"
        )
    return layout


def fit_config(
    config: ml_collections.ConfigDict, sizes: Sizes, streams: Sequence[str]
) -> list[str]:
    """Sets what the shapes prescribe; returns what that changed, as "field: was -> is"."""
    values = {
        "streams": tuple(streams), "encoder.width": sizes.width, "encoder.dim": sizes.dim,
        "encoder.num_layers": sizes.num_layers, "moco.queue_size": sizes.queue_size,
        "halp.num_prototypes": sizes.num_prototypes or config.halp.num_prototypes,
    }  # fmt: skip
    changes = []
    for field, value in values.items():
        section, _, key = field.rpartition(".")
        holder = config[section] if section else config
        if tuple(holder[key]) != value if key == "streams" else holder[key] != value:
            changes.append(f"{field}: {holder[key]} -> {value}")
            holder[key] = value
    return changes


def to_state(
    arrays: Arrays,
    sizes: Sizes,
    config: ml_collections.ConfigDict,
    *,
    momentum: Arrays | None = None,
    step: int | None = None,
    pushed: Sequence[int] | None = None,
) -> TrainState:
    """The state of a run that has come as far as this model.

    Args:
        arrays: checked by `read_sizes`.
        config: as `fit_config` left it.
        momentum: of the optimiser, by the names of the query encoders' parameters; None for zeros.
        step: steps done; by default the batches that torch's batch norm has counted.
        pushed: keys that each queue has seen; by default what the steps and a HaLP run must have.
    """
    places = torch_names.list_parameters(sizes.num_layers)
    query = [f"encoder_q{ending}." for ending in sizes.endings]
    key = [f"encoder_k{ending}." for ending in sizes.endings]
    if step is None:
        step = int(arrays[query[0] + torch_names.TRACKED])
    shape = (len(sizes.endings), config.halp.num_prototypes, sizes.dim)
    prototypes = np.zeros(shape, np.float32)
    if sizes.num_prototypes:
        prototypes = np.stack([arrays[name] for name in torch_names.prototype_names(sizes.endings)])
    # Prototypes are made once a queue has seen twice its size in keys.
    least = 2 * sizes.queue_size + 1 if prototypes.any() else 0
    known = max(step * config.train.batch_size, least)
    queue = torch_names.read_queue(arrays, sizes.endings, known)
    if pushed is not None:
        queue = queue._replace(pushed=np.asarray(pushed, np.int32).reshape(queue.head.shape))

    params = torch_names.gather(arrays, query, places)
    trace = torch_names.gather(momentum, query, places) if momentum else None
    optimizer, _ = moco.make_optimizer(config, 1)
    extra = {
        "key_params": torch_names.gather(arrays, key, places),
        "batch_stats": torch_names.gather(arrays, query, torch_names.STATISTICS),
        "key_batch_stats": torch_names.gather(arrays, key, torch_names.STATISTICS),
        "queue": queue,
        "prototypes": prototypes,
    }
    opt_state = torch_names.fill_optimizer(optimizer, params, step, trace)
    state = TrainState(np.int32(step), params, opt_state, extra)
    return jax.tree.map(jnp.array, state)


def from_state(
    state: TrainState,
    streams: Sequence[str],
    *,
    with_prototypes: bool = True,
    tracked: Mapping[str, int] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(state dict, momentum by parameter name), of the released names and in their order.

    Args:
        streams: names of the state's streams.
        tracked: torch's counts of batches where they are not the state's step.
    """
    state = jax.tree.map(np.asarray, state)
    endings = torch_names.find_endings(streams)
    places = torch_names.list_parameters(sum(name.startswith("layer") for name in state.params))
    query = [f"encoder_q{ending}." for ending in endings]
    key = [f"encoder_k{ending}." for ending in endings]
    arrays = torch_names.scatter(state.params, query, places)
    extra = state.extra
    arrays |= torch_names.scatter(extra["key_params"], key, places)
    arrays |= torch_names.scatter(extra["batch_stats"], query, torch_names.STATISTICS)
    arrays |= torch_names.scatter(extra["key_batch_stats"], key, torch_names.STATISTICS)
    for prefix in query + key:
        count = (tracked or {}).get(prefix + torch_names.TRACKED, int(state.step))
        arrays[prefix + torch_names.TRACKED] = np.array(count, np.int64)
    arrays |= torch_names.write_queue(extra["queue"], endings)
    if with_prototypes:
        arrays |= dict(zip(torch_names.prototype_names(endings), extra["prototypes"], strict=True))
    order = torch_names.list_shapes(torch_names.read_sizes(arrays))
    [trace] = [s.trace for s in state.opt_state if isinstance(s, optax.TraceState)]
    return {name: arrays[name] for name in order}, torch_names.scatter(trace, query, places)


def read_momentum(optimizer: Any, arrays: Arrays) -> tuple[dict[str, np.ndarray] | None, str]:
    """The momentum of a `torch.optim.SGD` state dict by parameter name, or None; and which it is.

    The optimiser numbers its parameters: all of the model, or only those of the query encoders. A
    parameter without momentum (never stepped) has zeros.
    """
    if not isinstance(optimizer, Mapping) or "state" not in optimizer:
        return None, "zeros (the file has no optimiser)"
    names = torch_names.list_parameter_names(list(arrays))
    queries = [name for name in names if name.startswith("encoder_q")]
    groups = optimizer.get("param_groups", [])
    numbers = groups[0].get("params", []) if len(groups) == 1 else []
    order = {len(names): names, len(queries): queries}.get(len(numbers))
    if order is None:
        return None, "zeros (the optimiser is not of this model's parameters)"
    momentum = {}
    for name, number in zip(order, numbers, strict=True):
        buffer = optimizer["state"].get(number, {}).get("momentum_buffer")
        if not name.startswith("encoder_q"):
            continue
        if buffer is None:
            buffer = np.zeros_like(arrays[name])
        if np.shape(buffer) != arrays[name].shape or not np.isfinite(buffer).all():
            return None, f"zeros (the file's does not fit {name})"
        momentum[name] = buffer
    if not any(buffer.any() for buffer in momentum.values()):
        return None, "zeros (the optimiser has none)"
    return momentum, "taken over"


def make_optimizer_dict(
    arrays: Arrays, momentum: Arrays, config: ml_collections.ConfigDict, learning_rate: float
) -> dict[str, Any]:
    """The state dict of the `torch.optim.SGD` that the released code makes of all parameters."""
    names = torch_names.list_parameter_names(list(arrays))
    group = {
        "lr": learning_rate, "momentum": config.optim.momentum, "dampening": 0,
        "weight_decay": config.optim.weight_decay, "nesterov": False, "maximize": False,
        "foreach": None, "differentiable": False, "fused": None, "params": list(range(len(names))),
    }  # fmt: skip
    state = {
        number: {"momentum_buffer": momentum[name]}
        for number, name in enumerate(names)
        if name in momentum
    }
    return {"state": state, "param_groups": [group]}


def _num_inputs(layout: Layout) -> int:
    return layout.bodies * layout.num_joints * 3
