"""Batch normalisation over all samples and frames of the global batch, as torch.nn.BatchNorm1d.

Differences to flax.linen.BatchNorm that show in the digits: the running variance is the unbiased one,
and the batch statistics are taken in two passes (mean first), over all devices.
"""

import functools
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

        if not train:
            mean, var = running_mean.value, running_var.value
            return (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
        axis_name = None if self.is_initializing() else self.axis_name
        y, (mean, var, count) = normalize_batch(x, scale, bias, there, self.epsilon, axis_name)
        if not self.is_initializing():
            unbiased = var * count / jnp.maximum(count - 1, 1)
            running_mean.value += self.momentum * (mean - running_mean.value)
            running_var.value += self.momentum * (unbiased - running_var.value)
        return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def normalize_batch(x, scale, bias, there, epsilon, axis_name):
    """-> x normalised, (mean, variance, number of samples), no gradient of the second.

    Its own gradient, for the automatic one goes through both averages: twice the passes over x.
    """
    return _normalize(x, scale, bias, there, epsilon, axis_name)[0]


def _normalize(x, scale, bias, there, epsilon, axis_name):
    axes = tuple(range(x.ndim - 1))
    size = x.size // x.shape[-1]
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    count = jnp.asarray(size * devices, x.dtype)
    if there is not None:
        count = _add_devices(jnp.sum(there, dtype=x.dtype), axis_name)

    def average(values):
        if there is not None:
            values = jnp.where(there[..., None], values, 0.0)
        return _add_devices(jnp.sum(values, axes), axis_name) / jnp.maximum(count, 1.0)

    mean = average(x)
    var = average(jnp.square(x - mean))
    inverse = jax.lax.rsqrt(var + epsilon)
    y = (x - mean) * (inverse * scale) + bias
    return (y, (mean, var, count)), (x, scale, there, mean, inverse, count)


def _backward(epsilon, axis_name, kept, cotangents):
    x, scale, there, mean, inverse, count = kept
    d_y, axes = cotangents[0], tuple(range(x.ndim - 1))
    d_bias = jnp.sum(d_y, axes)
    d_scale = jnp.sum(d_y * (x - mean), axes) * inverse
    from_mean = _add_devices(d_bias, axis_name) / jnp.maximum(count, 1.0)
    from_var = _add_devices(d_scale, axis_name) / jnp.maximum(count, 1.0) * inverse
    through = from_mean + (x - mean) * from_var
    if there is not None:
        through = jnp.where(there[..., None], through, 0.0)
    return (d_y - through) * (inverse * scale), d_scale, d_bias, None


normalize_batch.defvjp(_normalize, _backward)


def _add_devices(x, axis_name):
    return x if axis_name is None else jax.lax.psum(x, axis_name)
