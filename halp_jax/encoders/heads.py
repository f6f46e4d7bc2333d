"""Heads of two layers: that of MoCo v2 (Chen et al. 2020) as in the released HaLP, and MS2L's."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from halp_jax.encoders.norm import BatchNorm


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


def make_head(dim: int, **settings) -> Callable[[Array], Array]:
    """An encoder's MLPHead; with dim 0 the embedding is the feature."""
    return MLPHead(dim, name="head", **settings) if dim else lambda feature: feature


class NormHead(nn.Module):
    """Linear, batch norm, ReLU, Linear: MS2L's (Lin et al., MM 2020) for contrast and for the jigsaw."""

    width: int
    dim: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, features: Float[Array, "batch features"]) -> Float[Array, "batch dim"]:
        """Of a batch in training, by its own statistics: outside of it nobody asks the head."""
        linear = {"kernel_init": nn.initializers.xavier_normal(), "precision": "highest"}
        hidden = nn.Dense(self.width, name="hidden", **linear)(features)
        hidden = BatchNorm(axis_name=self.axis_name, name="norm")(hidden, True)
        return nn.Dense(self.dim, name="out", **linear)(nn.relu(hidden))
