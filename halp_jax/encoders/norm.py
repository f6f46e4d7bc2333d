"""Batch normalisation over all samples and frames of the global batch, as torch.nn.BatchNorm1d.

Differences to flax.linen.BatchNorm that show in the digits: the running variance is the unbiased one,
and the batch statistics are taken in two passes (mean first), over all devices.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class BatchNorm(nn.Module):
    """Normalises each feature of [..., features]; running statistics in the collection batch_stats."""

    momentum: float = 0.1  # of the running statistics, torch's sense: the share of the new
    epsilon: float = 1e-5
    axis_name: str | None = None  # mapped axis whose batches count as one
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch features"], train: bool
    ) -> Float[Array, "*batch features"]:
        size = x.shape[-1]
        scale = self.param("scale", self.scale_init, (size,))
        bias = self.param("bias", nn.initializers.zeros, (size,))
        running_mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(size))
        running_var = self.variable("batch_stats", "var", lambda: jnp.ones(size))

        if train:
            axes = tuple(range(x.ndim - 1))
            mean = self._over_devices(jnp.mean(x, axes))
            var = self._over_devices(jnp.mean(jnp.square(x - mean), axes))
            if not self.is_initializing():
                count = x.size // size * self._num_devices()
                unbiased = var * count / max(count - 1, 1)
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        return (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias

    def _over_devices(self, x):
        if self.axis_name is None or self.is_initializing():
            return x
        return jax.lax.pmean(x, self.axis_name)

    def _num_devices(self):
        return 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)
