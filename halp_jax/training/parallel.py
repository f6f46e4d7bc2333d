"""One training step on any number of devices: `jax.pmap` or `jax.shard_map`, one config line apart.

A step is written once, for one device's share of the batch, against the axis name "data" (`pmean`,
`all_gather`). The state is never stacked: it enters and leaves replicated. `check_vma=False` is not
an option but a need: with the default, the gradient of this step is multiplied by the number of
devices, silently (tests/test_parallel.py holds all drivers to the one-device gradient).
"""

import collections
import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from halp_jax.errors import UserError
from halp_jax.methods.base import AXIS

DRIVERS = ("pmap", "shard_map")


def get_devices(num_devices: int = 0, local: bool = False) -> list[jax.Device]:
    """The devices of a run: the first `num_devices` of them, or all (0).

    `local`: each of several processes trains by itself, on its own devices.
    """
    devices = jax.local_devices() if local else jax.devices()
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


def count_devices(rows: int, available: int) -> int:
    """The largest number of devices, of those available, that a batch of `rows` divides over."""
    return next(n for n in range(min(rows, available), 0, -1) if rows % n == 0)


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    # Not jax.make_mesh: its axes are Explicit in newer versions.
    return Mesh(np.array(devices), (AXIS,))


def replicate(tree: Any, num_devices: int = 0, local: bool = False) -> Any:
    """Every leaf on every device. Given to the first step, so that it is not compiled twice.

    Leaves never share a buffer, neither with one another nor with `tree`: the step donates them.
    """
    sharding = NamedSharding(_mesh(get_devices(num_devices, local)), PartitionSpec())

    def put(leaf):
        leaf = np.array(leaf)
        if jax.process_count() == 1 or local:
            return jax.device_put(leaf, sharding)
        # device_put would gather every leaf from all processes, to compare them.
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(put, tree)


def local_view(tree: Any) -> Any:
    """A replicated tree as plain arrays on this process's first device, without a copy."""
    return jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree)


def make_placer(
    *, driver: str = "pmap", num_devices: int = 0, local: bool = False
) -> Callable[[Any], Any]:
    """-> `place(batch)`: numpy leaves [batch, ...] -> arrays on the devices, shaped for the driver.

    A batch that does not divide over the devices goes to as many of them as it does divide over. In
    a run of several processes each gives its own rows of the global batch, which must divide.
    """
    devices = get_devices(num_devices, local)
    together = jax.process_count() > 1 and not local

    def place(batch: Any) -> Any:
        rows = len(jax.tree.leaves(batch)[0])
        mesh = _mesh(devices if together else devices[: count_devices(rows, len(devices))])
        own = len(mesh.local_devices)
        if rows % own:
            raise UserError(
                f"a batch of {rows} does not divide over {own} devices: "
                f"make train.batch_size a multiple of the number of devices"
            )

        def place_leaf(leaf: np.ndarray) -> jax.Array:
            if driver == "pmap":  # [devices, batch / devices, ...]
                leaf = leaf.reshape(own, rows // own, *leaf.shape[1:])
            sharding = NamedSharding(mesh, PartitionSpec(AXIS))
            return jax.make_array_from_process_local_data(sharding, leaf)

        return jax.tree.map(place_leaf, batch)

    return place


def compile_step(
    step: Callable[[Any, Any], tuple[Any, Any]],
    *,
    driver: str = "pmap",
    num_devices: int = 0,
    local: bool = False,
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """A step for one device's share of a batch -> `f(state, batch) -> (state, metrics)` for all.

    The new state takes the old one's memory; the one passed in is gone afterwards.
    `f` takes the global batch as numpy leaves [batch, ...], or as `make_placer` has placed them.

    Args:
        step: `(state, batch) -> (state, metrics)`, written against the axis "data"; what it returns
            must be the same on every device.
        driver: "pmap" or "shard_map".
        num_devices: 0 for all.
        local: as `get_devices` has it.
    """
    place = make_placer(driver=driver, num_devices=num_devices, local=local)
    devices, ran = get_devices(num_devices, local), set()

    @functools.cache
    def compiled(count: int) -> Callable[[Any, Any], tuple[Any, Any]]:
        if driver == "pmap":
            return jax.pmap(
                step,
                axis_name=AXIS,
                in_axes=(None, 0),
                out_axes=(None, None),
                devices=devices[:count] if jax.process_count() == 1 or local else None,
                donate_argnums=(0,),
            )
        mapped = jax.shard_map(
            step,
            mesh=_mesh(devices[:count]),
            in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=(PartitionSpec(), PartitionSpec()),
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=(0,))

    def apply(state: Any, batch: Any) -> tuple[Any, Any]:
        if any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batch)):
            batch = place(batch)
        count, now = (len(jax.tree.leaves(x)[0].sharding.device_set) for x in (batch, state))
        # An epoch's last, smaller batch, or the one after it. With several processes there is none.
        if count != now and (jax.process_count() == 1 or local):
            state = jax.device_put(state, NamedSharding(_mesh(devices[:count]), PartitionSpec()))
        found = compiled(count)(state, batch)
        if count not in ran:
            ran.add(count)
            trim_memory()
        return found

    return apply


def trim_memory() -> None:
    """Gives back what compiling has freed: glibc would keep it, most of a GiB, for as long as training lasts."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def prefetch(batches: Iterable[Any], place: Callable[[Any], Any], size: int = 2) -> Iterator[Any]:
    """Batches on the devices, `size` ahead of the one in use: transfers hide behind steps."""
    ready: collections.deque[Any] = collections.deque()
    for batch in batches:
        ready.append(place(batch))
        if len(ready) > size:
            yield ready.popleft()
    while ready:
        yield ready.popleft()
