"""One training step on any number of devices: `jax.pmap` or `jax.shard_map`, one config line apart.

A step is written once, for one device's share of the batch, against the axis name "data" (`pmean`,
`all_gather`). The state is never stacked: it enters and leaves replicated. `check_vma=False` is not
an option but a need: with the default, the gradient of this step is multiplied by the number of
devices, silently (tests/test_parallel.py holds all drivers to the one-device gradient).
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from halp_jax.errors import UserError
from halp_jax.methods.moco import AXIS

DRIVERS = ("pmap", "shard_map")


def get_devices(num_devices: int = 0) -> list[jax.Device]:
    """The devices of a run: the first `num_devices` of them, or all (0)."""
    devices = jax.devices()
    if num_devices == 0:
        return devices
    if num_devices < 0 or num_devices > len(devices):
        raise UserError(
            f"train.num_devices={num_devices}, but jax sees {len(devices)} "
            f"{devices[0].platform} device(s): set it to 1..{len(devices)}, or 0 for all"
        )
    if jax.process_count() > 1 and num_devices != len(devices):
        raise UserError(
            f"train.num_devices={num_devices} with {jax.process_count()} processes: "
            f"several processes use all their devices together; set it to 0"
        )
    return devices[:num_devices]


def check_batch_size(batch_size: int, num_devices: int) -> None:
    """Refuses a global batch that does not split evenly over the devices (0: all of them)."""
    count = len(get_devices(num_devices))
    if batch_size % count:
        raise UserError(
            f"train.batch_size={batch_size} does not divide over {count} devices: "
            f"make it a multiple of {count} or set train.num_devices to a divisor of it"
        )


def _mesh(num_devices: int) -> Mesh:
    # Not jax.make_mesh: its axes are Explicit in newer versions.
    return Mesh(np.array(get_devices(num_devices)), (AXIS,))


def replicate(tree: Any, num_devices: int = 0) -> Any:
    """Every leaf on every device. Given to the first step, so that it is not compiled twice.

    Leaves never share a buffer, neither with one another nor with `tree`: the step donates them.
    """
    sharding = NamedSharding(_mesh(num_devices), PartitionSpec())
    return jax.tree.map(lambda leaf: jax.device_put(np.array(leaf), sharding), tree)


def local_view(tree: Any) -> Any:
    """A replicated tree as plain arrays on this process's first device, without a copy."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def make_placer(*, driver: str = "pmap", num_devices: int = 0) -> Callable[[Any], Any]:
    """-> `place(batch)`: numpy leaves [batch, ...] -> arrays on the devices, shaped for the driver.

    In a run of several processes each gives its own rows of the global batch.
    """
    _check_driver(driver)
    mesh = _mesh(num_devices)
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    local = len(mesh.local_devices)

    def place_leaf(leaf: np.ndarray) -> jax.Array:
        if leaf.shape[0] % local:
            raise UserError(
                f"a batch of {leaf.shape[0]} does not divide over {local} devices: "
                f"make train.batch_size a multiple of the number of devices"
            )
        if driver == "pmap":  # [devices, batch / devices, ...]
            leaf = leaf.reshape(local, leaf.shape[0] // local, *leaf.shape[1:])
        return jax.make_array_from_process_local_data(sharding, leaf)

    return lambda batch: jax.tree.map(place_leaf, batch)


def compile_step(
    step: Callable[[Any, Any], tuple[Any, Any]],
    *,
    driver: str = "pmap",
    num_devices: int = 0,
    donate: bool = True,
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """A step for one device's share of a batch -> `f(state, batch) -> (state, metrics)` for all.

    Args:
        step: `(state, batch) -> (state, metrics)`, written against the axis "data"; what it returns
            must be the same on every device.
        driver: "pmap" or "shard_map".
        num_devices: 0 for all.
        donate: give the state's memory to the new state; the one passed in is gone afterwards.

    `f` takes the global batch as numpy leaves [batch, ...], or as `make_placer` has placed them.
    """
    place = make_placer(driver=driver, num_devices=num_devices)
    donated = (0,) if donate else ()
    if driver == "pmap":
        run = jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=(None, None),
            devices=get_devices(num_devices) if jax.process_count() == 1 else None,
            donate_argnums=donated,
        )
    else:
        mapped = jax.shard_map(
            step,
            mesh=_mesh(num_devices),
            in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=(PartitionSpec(), PartitionSpec()),
            check_vma=False,
        )
        run = jax.jit(mapped, donate_argnums=donated)

    def apply(state: Any, batch: Any) -> tuple[Any, Any]:
        on_host = any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batch))
        return run(state, place(batch) if on_host else batch)

    return apply


def prefetch(batches: Iterable[Any], place: Callable[[Any], Any], size: int = 2) -> Iterator[Any]:
    """Batches on the devices, `size` ahead of the one in use: transfers hide behind steps."""
    ready: collections.deque[Any] = collections.deque()
    for batch in batches:
        ready.append(place(batch))
        if len(ready) > size:
            yield ready.popleft()
    while ready:
        yield ready.popleft()


def _check_driver(driver: str) -> None:
    if driver not in DRIVERS:
        raise UserError(f"train.parallel={driver!r} is not known: use one of {', '.join(DRIVERS)}")
