"""The memory queue of MoCo (He et al., CVPR 2020): the last K keys, oldest overwritten first."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from halp_jax.core.sphere import normalize

_MANY = 2**30  # `pushed` stops here: it is only ever compared with small numbers


class MemoryQueue(NamedTuple):
    """Ring buffer of keys. `pushed` counts the real keys seen, `head` is where the next one goes."""

    keys: Float[Array, "*streams size dim"]
    head: Int[Array, "*streams"]
    pushed: Int[Array, "*streams"]


def create_queue(key: Key[Array, ""], size: int, dim: int) -> MemoryQueue:
    """A queue of `size` random unit vectors, as MoCo starts; none of them counts as a real key."""
    keys = normalize(jax.random.normal(key, (size, dim)))
    return MemoryQueue(keys, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def push(queue: MemoryQueue, keys: Float[Array, "batch dim"]) -> MemoryQueue:
    """Overwrites the oldest entries with `keys` [batch, dim]; batch must divide the queue's size."""
    size, batch = queue.keys.shape[0], keys.shape[0]
    if size % batch:
        raise ValueError(f"a queue of {size} keys is no multiple of the batch of {batch}")
    return MemoryQueue(
        keys=jax.lax.dynamic_update_slice_in_dim(queue.keys, keys, queue.head, axis=0),
        head=(queue.head + batch) % size,
        pushed=jnp.minimum(queue.pushed + batch, _MANY),
    )


def newest(queue: MemoryQueue, count: int) -> Float[Array, "count dim"]:
    """The `count` keys pushed last, oldest of them first."""
    size = queue.keys.shape[0]
    if count > size:
        raise ValueError(f"asked for the newest {count} of a queue of {size} keys")
    return jnp.take(queue.keys, (queue.head - count + jnp.arange(count)) % size, axis=0)
