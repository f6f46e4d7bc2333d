"""The projection head of MoCo v2 (Chen et al. 2020), initialised as the released code's."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def torch_uniform(fan_in: int):
    """torch.nn.Linear's and GRU's default initialiser: uniform in +-1/sqrt(fan_in)."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class MLPHead(nn.Module):
    """Linear, ReLU, Linear: [batch, features] -> [batch, dim], not normalised.

    `start` initialises the weights of both layers, and their biases are 0; None: as the released HaLP,
    whose last layer `last` may initialise instead.
    """

    dim: int
    start: Callable | None = None
    last: Callable | None = None

    @nn.compact
    def __call__(self, features: Float[Array, "batch features"]) -> Float[Array, "batch dim"]:
        width = features.shape[-1]
        default = torch_uniform(width)
        # Only the last layer goes through the released code's Xavier initialisation.
        xavier = nn.initializers.xavier_uniform()
        first, last = (self.start, self.start) if self.start else (default, self.last or xavier)
        # In full float32 on accelerators, too: it is a small part of the work.
        full = {
            "bias_init": nn.initializers.zeros if self.start else default, "precision": "highest",
        }  # fmt: skip
        hidden = nn.Dense(width, kernel_init=first, name="hidden", **full)(features)
        return nn.Dense(self.dim, kernel_init=last, name="out", **full)(nn.relu(hidden))
