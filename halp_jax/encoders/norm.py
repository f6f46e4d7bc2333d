"""Batch normalisation over all samples and frames of the global batch, as torch.nn.BatchNorm1d.

Differences to flax.linen.BatchNorm that show in the digits: the running variance is the unbiased one,
and the batch statistics are taken in two passes (mean first), over all devices.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class BatchNorm(nn.Module):
    """Normalises each feature of [..., features]; running statistics in the collection batch_stats."""

    momentum: float = 0.1  # of the running statistics, torch's sense: the share of the new
    epsilon: float = 1e-5
    axis_name: str | None = None  # mapped axis whose batches count as one
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*batch features"],
        train: bool,
        there: Bool[Array, "*batch"] | None = None,
    ) -> Float[Array, "*batch features"]:
        """`there`: the samples that count, where not all do."""
        size = x.shape[-1]
        scale = self.param("scale", self.scale_init, (size,))
        bias = self.param("bias", nn.initializers.zeros, (size,))
        running_mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(size))
        running_var = self.variable("batch_stats", "var", lambda: jnp.ones(size))

        if train:
            axes = tuple(range(x.ndim - 1))
            count = x.size // size * self._num_devices()
            share = None
            if there is not None:  # their share of all, padding included, on all devices
                share = self._over_devices(jnp.mean(there.astype(x.dtype)))
                count, share = jnp.round(share * count), jnp.where(share > 0, share, 1.0)

            def average(values):
                if there is None:
                    return self._over_devices(jnp.mean(values, axes))
                return self._over_devices(jnp.mean(values * there[..., None], axes)) / share

            mean = average(x)
            var = average(jnp.square(x - mean))
            if not self.is_initializing():
                unbiased = var * count / jnp.maximum(count - 1, 1)
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
        if self.axis_name is None or self.is_initializing():
            return 1
        return jax.lax.axis_size(self.axis_name)
