"""The memory queue of MoCo (He et al., CVPR 2020): the last K keys, oldest overwritten first."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from halp_jax.core.sphere import normalize

MANY = 2**30  # `pushed` stops here: it is only ever compared with small numbers


class MemoryQueue(NamedTuple):
    """Ring buffer of keys. `pushed` counts the real keys seen, `head` is where the next one goes."""

    keys: Float[Array, "*streams size dim"]
    head: Int[Array, "*streams"]
    pushed: Int[Array, "*streams"]


def create_queue(key: Key[Array, ""], size: int, dim: int) -> MemoryQueue:
    """A queue of `size` random unit vectors, as MoCo starts; none of them counts as a real key."""
    keys = normalize(jax.random.normal(key, (size, dim), jnp.float32))
    return MemoryQueue(keys, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def push(
    queue: MemoryQueue, keys: Float[Array, "batch dim"], there: Bool[Array, " batch"] | None = None
) -> MemoryQueue:
    """Overwrites the oldest entries with `keys` [batch, dim], across the seam where they reach it.

    `there`: the keys that are no padding, where some are.
    """
    size, batch = queue.keys.shape[0], keys.shape[0]
    if batch > size:
        raise ValueError(f"a queue of {size} keys cannot hold a batch of {batch}")
    places, count = (queue.head + jnp.arange(batch)) % size, batch
    if there is not None:
        count = jnp.sum(there, dtype=jnp.int32)
        outside = size + jnp.arange(batch)  # what would stand there is dropped
        places = jnp.where(there, (queue.head + jnp.cumsum(there) - 1) % size, outside)
    return MemoryQueue(
        keys=queue.keys.at[places].set(keys.astype(queue.keys.dtype), unique_indices=True),
        head=(queue.head + count) % size,
        pushed=jnp.minimum(queue.pushed + count, MANY),
    )


def newest(queue: MemoryQueue, count: int) -> Float[Array, "count dim"]:
    """The `count` keys pushed last, oldest of them first."""
    size = queue.keys.shape[0]
    if count > size:
        raise ValueError(f"asked for the newest {count} of a queue of {size} keys")
    return jnp.take(queue.keys, (queue.head - count + jnp.arange(count)) % size, axis=0)
